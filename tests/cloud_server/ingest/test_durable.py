"""What the log means on the stream: after a restart, and when it cannot be written."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from structlog.testing import capture_logs

from cloud_server.consumers import ResultClient
from cloud_server.ingest.processing import MAX_ATTEMPTS
from cloud_server.ingest.sessions import PictureLimits
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.proto.featherwire.v1 import ingest_pb2
from shared.results import Detection, TaskResult
from shared.wire import PictureRequest
from shared.wire.requests import Refine, refine_message
from tests.support.commands import run
from tests.support.full_disk import fill_disk, leave_room_for, slow_disk
from tests.support.memory_server import MemoryServer
from tests.support.raw_client import RawClient
from tests.support.servers import BOX, FixedTask, ServerThread, server_process

Start = Callable[..., ServerThread]
WANTED = PictureRequest()


@pytest.fixture
def bitstream(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> Bitstream:
    return encoder.encode(image)


def restart(start_server: Start, server: ServerThread, **settings: Any) -> ServerThread:
    server.stop()
    server.join()
    return start_server(**settings)


def test_a_restarted_server_knows_frames_results_and_layers(
    start_server: Start, bitstream: Bitstream, tmp_path: Path
) -> None:
    data = {"data": tmp_path / "log"}
    server = start_server(**data)
    client = RawClient(server.address)
    client.hello()
    client.frame(1, bitstream.truncate(3), picture=WANTED)
    client.frame(2, bitstream)
    client.frame(4, bitstream)
    before = {one.result_id: one for one in client.wait_for("result", 3)}
    client.close()

    server = restart(start_server, server, **data)
    client = RawClient(server.address)
    welcome = client.hello(last_result_seen=1)
    assert (welcome.resume_after_sequence, welcome.credits) == (2, 8)
    # What it had not seen comes again; pictures were not kept, which it is told.
    again = client.wait_for("result", 2)
    assert [one.result_id for one in again] == [2, 3]
    for one in again:
        if one.outcome.HasField("picture_error"):
            assert one.outcome.picture_error.reason == "picture_not_kept"
            one.outcome.ClearField("picture_error")
            before[one.result_id].outcome.ClearField("picture")
        assert one == before[one.result_id]
    client.frame(4, bitstream)
    assert client.wait_for("ack")[0].duplicate
    assert client.wait_for("result", 3)[2].sequence == 4
    client.say(refine=refine_message(Refine(1, bitstream.layers[2:], picture=WANTED)))
    refined = client.wait_for("result", 4)[3]
    assert (refined.result_id, refined.sequence, refined.state) == (4, 1, 0)
    assert refined.outcome.HasField("picture")
    client.frame(3, bitstream)
    assert client.wait_for("result", 5)[4].result_id == 5
    client.close()


def test_a_frame_that_stopped_servers_again_and_again_is_given_up(
    start_server: Start, bitstream: Bitstream, tmp_path: Path
) -> None:
    data = {"data": tmp_path / "log"}
    slow = {"slow": lambda: FixedTask("slow", 2.0)}
    server = start_server(slow, **data, drain_deadline_s=0.1)
    client = RawClient(server.address)
    client.hello()
    client.frame(1, bitstream, tasks=("slow",))
    client.frame(2, bitstream, tasks=("slow",))
    client.wait_for("ack", 2)
    server.stop()
    server.join()
    client.close()
    with closing(sqlite3.connect(tmp_path / "log" / "log.db")) as log, log:
        log.execute("UPDATE submissions SET attempts = ? WHERE sequence = 1", (MAX_ATTEMPTS,))
    with ResultClient(start_server(slow, **data).address) as consumer:
        records = (one.record for one in consumer.responses(after=0) if one.HasField("record"))
        first, second = sorted((next(records), next(records)), key=lambda one: one.sequence)
    assert first.outcome.error.reason == "abandoned"
    assert "slow" in second.outcome.analysis.tasks


def test_a_picture_that_is_still_in_memory_comes_with_the_repeated_result(
    start_in_memory: Callable[..., MemoryServer], bitstream: Bitstream
) -> None:
    for room, has in ((PictureLimits(), True), (PictureLimits(kept_pictures=0), False)):
        client = start_in_memory(kept_pictures=room).client()
        client.hello()
        client.frame(1, bitstream, picture=WANTED)
        client.wait_for("result")
        client.frame(1, bitstream, picture=WANTED)
        first, second = client.wait_for("result", 2)
        assert first.outcome.HasField("picture")
        assert second.outcome.HasField("picture") == has
        assert second.outcome.HasField("picture_error") != has
        client.close()


def test_a_frame_that_comes_again_at_another_state_has_the_result_that_it_had(
    start_in_memory: Callable[..., MemoryServer], bitstream: Bitstream
) -> None:
    client = start_in_memory().client()
    client.hello()
    client.frame(1, bitstream)
    first = client.wait_for("result")[0]
    client.frame(1, bitstream.truncate(4))
    ack = client.wait_for("ack", 2)[1]
    assert (ack.duplicate, ack.state) == (True, 4)
    assert client.wait_for("result", 2)[1] == first
    client.wait_for_credits(2)
    client.close()


class Wordy(FixedTask):
    """Finds so much that its result needs room on the disk."""

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[TaskResult]:
        found = [Detection(box=BOX, class_id=0, class_name="thing", score=0.5)] * 5000
        return [TaskResult(task=self.name, model=self.models, detections=found) for _ in images]


def test_a_frame_that_cannot_be_kept_is_not_acknowledged_and_can_come_again(
    start_server: Start, encoder: EdgeEncoder
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (512, 512, 3)).astype(np.uint8)
    large = encoder.encode(noise)
    server = start_server()
    client = RawClient(server.address)
    client.hello()
    client.frame(1, large)
    client.wait_for("result")
    fill_disk(server, 0)
    for sequence in range(2, 8):
        client.frame(sequence, large)
    assert client.ended.wait(20)
    error = client.all("error")[0]
    assert (error.reason, error.retryable) == ("log_unavailable", True)
    acked = {one.sequence for one in client.all("ack")}
    assert acked < set(range(1, 8))
    client.close()
    fill_disk(server, None)

    client = RawClient(server.address)
    welcome = client.hello(last_result_seen=1)
    assert welcome.resume_after_sequence == max(acked)
    for sequence in range(2, 8):
        client.frame(sequence, large)
    client.wait_for_credits(6)
    client.wait_for("result", 6)
    with ResultClient(server.address) as consumer:
        assert sorted(one.sequence for one in consumer.records()) == list(range(1, 8))
    client.close()


def test_nothing_is_kept_behind_a_frame_that_could_not_be_though_a_refinement_comes_between(
    start_server: Start, encoder: EdgeEncoder, bitstream: Bitstream
) -> None:
    """Else the device would believe that all up to there is kept, or the log would have a gap."""
    noise = np.random.default_rng(1).integers(0, 255, (512, 512, 3)).astype(np.uint8)
    large, small = encoder.encode(noise), bitstream.truncate(bitstream.layers[0].state)
    refine = refine_message(Refine(1, bitstream.layers[1:]))
    server = start_server()
    client = RawClient(server.address)
    client.hello()
    client.frame(1, small)
    client.wait_for("result")
    leave_room_for(server, 1000)
    with slow_disk(server):
        client.frame(2, large)
        client.say(heartbeat=ingest_pb2.Heartbeat(nonce=1))
        client.wait_for("heartbeat")  # the log has been given the large frame
        client.frame(3, small)
        client.say(refine=refine)
        client.say(heartbeat=ingest_pb2.Heartbeat(nonce=2))
        client.wait_for("heartbeat", 2)  # the server has the rest
    assert client.ended.wait(20)
    assert client.all("error")[0].reason == "log_unavailable"
    assert [one.sequence for one in client.all("ack")] == [1]
    client.close()
    leave_room_for(server, None)  # which the log does behind all that
    with ResultClient(server.address) as consumer:
        assert [one.sequence for one in consumer.records()] == [1]

    client = RawClient(server.address)
    assert client.hello(last_result_seen=1).resume_after_sequence == 1
    client.frame(2, large)
    client.frame(3, small)
    client.say(refine=refine)
    client.wait_for("result", 3)
    assert not any(one.duplicate for one in client.wait_for("ack", 3))
    client.close()


def test_a_result_that_cannot_be_kept_waits_until_it_can(
    start_server: Start, bitstream: Bitstream
) -> None:
    with capture_logs() as logs:
        server = start_server({"wordy": lambda: Wordy("wordy")})
        client = RawClient(server.address)
        client.hello()
        client.frame(1, bitstream)
        client.wait_for("result")
        fill_disk(server, 8)
        client.frame(2, bitstream, tasks=("wordy",))
        client.wait_until(lambda: any(log["event"] == "log_unavailable" for log in logs))
        assert [one.sequence for one in client.all("ack")] == [1, 2]
        assert len(client.all("result")) == 1
        fill_disk(server, None)
        assert client.wait_for("result", 2)[1].result_id == 2
    assert {log["reason"] for log in logs if log["event"] == "log_unavailable"} == {"disk_full"}
    client.close()


def test_serve_says_why_it_cannot_have_its_log(tiny_bundle: Bundle, tmp_path: Path) -> None:
    arguments = ("--bundle", tiny_bundle.origin, "--bundles", "none", "--tasks", "none")
    here = ("--data", str(tmp_path / "log"))
    with server_process(*arguments, *here) as (_, ready):
        assert ready["log"] == str(tmp_path / "log" / "log.db")
        again = run("cloud_server", "serve", "--insecure", *arguments, *here, "--json")
    assert again.returncode == 3
    assert json.loads(again.stdout)["error"]["reason"] == "in_use"
    for file in (tmp_path / "log").glob("log.db-*"):
        file.unlink()  # all of the log was still in the write-ahead file
    (tmp_path / "log" / "log.db").write_bytes(b"not a database" * 500)
    damaged = run("cloud_server", "serve", "--insecure", *arguments, *here)
    assert damaged.returncode == 3
    assert "[corrupt]" in damaged.stderr
    (tmp_path / "file").write_text("")
    no_folder = run(
        "cloud_server", "serve", "--insecure", *arguments, "--data", str(tmp_path / "file")
    )
    assert no_folder.returncode == 3
    secret = "postgresql://user:hush@127.0.0.1:1/log"
    unreachable = run("cloud_server", "serve", "--insecure", *arguments, "--database", secret)
    assert unreachable.returncode == 3
    assert "hush" not in unreachable.stderr
