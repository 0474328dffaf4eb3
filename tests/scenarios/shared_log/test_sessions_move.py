"""What one server of two knows of the other: sessions that move, results, commands, its death."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cloud_server.consumers import ResultClient
from cloud_server.database import Database
from codec.base import open_cloud, small_bundle
from edge_client.encoder import EdgeEncoder
from shared.errors import FeatherwireError, StorageError
from tests.support.crashes import Servers, wait_until
from tests.support.predicting import coded, moving
from tests.support.raw_client import RawClient
from tests.support.servers import FixedTask, ServerThread

StartServer = Callable[..., ServerThread]
SLOW = {"slow": lambda: FixedTask("slow", delay_s=0.5)}
PATIENCE_S = 60


def shared(start_server: StartServer, url: str, **settings: Any) -> ServerThread:
    return start_server(SLOW, database=url, shared_log=True, credits=16, **settings)


def test_a_session_that_moves_takes_its_unfinished_frames_along(
    start_server: StartServer, postgres_url: str, encoder: EdgeEncoder, image: object
) -> None:
    first, second = (shared(start_server, postgres_url) for _ in range(2))
    bitstream = encoder.encode(image)  # type: ignore[arg-type]
    before = RawClient(first.address)
    before.hello(device="camera", session="moves")
    for sequence in range(1, 9):
        before.frame(sequence, bitstream, tasks=("slow",))
    before.wait_for("ack", 8, PATIENCE_S)
    seen = before.wait_for("result", 1, PATIENCE_S)[0].result_id
    # The device does not notice that its connection is dead, and makes another, elsewhere.
    after = RawClient(second.address)
    welcome = after.hello(device="camera", session="moves", last_result_seen=seen)
    assert welcome.resume_after_sequence == 8
    after.frame(9, bitstream, tasks=("slow",))
    after.wait_for("ack", 1, PATIENCE_S)
    found = after.wait_for("result", 9 - seen, PATIENCE_S)
    assert [one.result_id for one in found] == list(range(seen + 1, 10))
    assert before.ended.wait(PATIENCE_S)
    assert before.wait_for("error", 1, PATIENCE_S)[0].reason == "superseded"
    time.sleep(1.5)  # the first server may still be busy with frames that are no longer its own
    for server in (first, second):
        with ResultClient(server.address) as client:
            records = list(client.records())
        assert [one.cursor for one in records] == list(range(1, 10))
        assert sorted(one.sequence for one in records) == list(range(1, 10))
    before.close()
    after.close()


def test_followers_and_operators_of_one_reach_what_is_at_the_other(
    start_server: StartServer, postgres_url: str, encoder: EdgeEncoder, image: object
) -> None:
    from cloud_server.fleet.client import FleetClient
    from shared.proto.featherwire.v1 import fleet_pb2

    first, second = (shared(start_server, postgres_url) for _ in range(2))
    bitstream = encoder.encode(image)  # type: ignore[arg-type]
    device = RawClient(second.address)
    device.hello(device="camera", session="far")
    device.frame(1, bitstream, tasks=("slow",))
    with ResultClient(first.address) as client:
        response = next(one for one in client.responses(after=0) if one.HasField("record"))
    assert (response.record.device, response.record.sequence) == ("camera", 1)
    with FleetClient(first.address) as operator:
        selector = fleet_pb2.DeviceSelector(devices=["camera"])

        def known() -> bool:
            return any(one.device == "camera" for one in operator.devices() if one.online)

        wait_until(known, PATIENCE_S)
        command = fleet_pb2.Command()
        command.set_tasks.tasks.append("slow")
        operator.send(selector, command)
    (given,) = device.wait_for("command", 1, PATIENCE_S)
    assert list(given.set_tasks.tasks) == ["slow"]
    device.close()
    with FleetClient(first.address) as operator:
        wait_until(lambda: not any(one.online for one in operator.devices()), PATIENCE_S)


@pytest.mark.timeout(120)
def test_frames_of_a_server_that_died_are_finished_by_the_other(
    make_servers: Callable[[str], Servers],
    start_server: StartServer,
    postgres_url: str,
    encoder: EdgeEncoder,
    image: object,
) -> None:
    dies = make_servers("dies")
    dies.start(code=SLOW_SERVER)
    lives = start_server({}, database=postgres_url, shared_log=True)
    client = RawClient(dies.address)
    client.hello(device="camera", session="orphan")
    for sequence in range(1, 4):
        client.frame(sequence, encoder.encode(image), picture=None, tasks=("nothing",))  # type: ignore[arg-type]
    client.wait_for("ack", 3, PATIENCE_S)
    dies.kill()
    client.close()
    # Nobody says Hello for the session again.
    with ResultClient(lives.address) as results:
        records = []
        for response in results.responses(after=0):
            if response.HasField("record"):
                records.append(response.record.sequence)
            if len(records) == 3:
                break
    assert sorted(records) == [1, 2, 3]


SLOW_SERVER = """
import time
import cloud_server.engine.local as frame
from cloud_server.cli import main

async def never(self):
    import asyncio
    await asyncio.sleep(3600)

frame.FrameRun._decode = never
main()
"""


def test_who_wants_to_be_alone_is_not_let_in(start_server: StartServer, postgres_url: str) -> None:
    shared(start_server, postgres_url)
    with pytest.raises(StorageError) as caught:
        Database(postgres_url, lock_wait_s=0.5)
    assert caught.value.reason == "in_use"
    with pytest.raises(FeatherwireError) as refused:
        start_server({}, shared_log=True)
    assert refused.value.reason == "invalid_settings"


def test_a_group_of_pictures_goes_on_at_another_server_and_back(
    start_server: StartServer, postgres_url: str, tmp_path: Path
) -> None:
    bundle = small_bundle("null", tmp_path / "bundle")
    frames = coded(bundle, moving(12))
    servers = [shared(start_server, postgres_url, bundle=bundle.origin) for _ in range(2)]
    codec, done = open_cloud(bundle), 0
    for number, end in enumerate((4, 8, 12)):
        client = RawClient(servers[number % 2].address)
        welcome = client.hello(device="camera", session="wanders", predicts=True)
        assert welcome.resume_after_sequence == done
        assert welcome.needs_key_frame == (done == 0)
        for sequence in range(done + 1, end + 1):
            client.frame(sequence, frames[sequence - 1])
        client.wait_for("ack", end - done, PATIENCE_S)
        assert not client.all("command")
        client.close()
        done = end
    latents = None
    with ResultClient(servers[1].address) as results:
        for sequence, frame in enumerate(frames, 1):
            latents = codec.decode(frame, reference=latents)
            alone, _ = results.frame(("camera", "wanders", sequence))
            assert codec.decode(alone).checksum() == latents.checksum()
