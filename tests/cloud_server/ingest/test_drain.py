"""Stopping: what is in flight comes home; what is too slow is cut at the deadline."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import FeatherwireError, SessionError
from shared.wire.transport import frame_deadline
from tests.support.raw_client import RawClient
from tests.support.servers import FixedTask, ServerThread, server_process

Start = Callable[..., ServerThread]


@pytest.fixture
def bitstream(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> Bitstream:
    return encoder.encode(image)


def test_sigterm_lets_frames_in_flight_finish(
    encoder: EdgeEncoder, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    big = np.random.default_rng(1).integers(0, 255, (1536, 1536, 3)).astype(np.uint8)
    bitstream = encoder.encode(big, state=3)
    arguments = ("--bundle", tiny_bundle.origin, "--tasks", "none")
    with server_process(*arguments, log=tmp_path / "log") as (process, ready):
        client = RawClient(ready["listening"])
        client.hello()
        from shared.wire import PictureRequest

        for sequence in range(1, 5):
            client.frame(sequence, bitstream, picture=PictureRequest())
        client.wait_for("ack", 4)
        assert len(client.all("result")) < 4, "nothing was in flight: the test shows nothing"
        process.send_signal(signal.SIGTERM)
        assert client.ended.wait(30)
        assert client.error is None
        assert len(client.all("drain")) == 1
        assert sorted(result.sequence for result in client.all("result")) == [1, 2, 3, 4]
        assert all(result.outcome.HasField("picture") for result in client.all("result"))
        assert process.wait(15) == 0
    log = (tmp_path / "log").read_text()
    assert '"event": "draining"' in log
    assert '"drained": true' in log
    client.close()


def test_after_drain_no_frame_and_no_stream_is_taken(
    start_server: Start, encoder: EdgeEncoder, bitstream: Bitstream
) -> None:
    server = start_server({"slow": lambda: FixedTask("slow", 1.0)})
    client = RawClient(server.address)
    client.hello()
    client.frame(1, bitstream, tasks=("slow",))
    client.wait_for("ack")
    server.stop()
    client.wait_for("drain")
    client.frame(2, bitstream)
    with (
        pytest.raises(FeatherwireError) as caught,
        EdgeSession(server.address, encoder=encoder, connect_timeout_s=1),
    ):
        pass
    assert caught.value.reason in {"draining", "unreachable"}
    assert client.ended.wait(10)
    assert [ack.sequence for ack in client.all("ack")] == [1]
    assert [result.sequence for result in client.all("result")] == [1]
    assert server.join()
    client.close()


def test_the_deadline_cuts_what_takes_longer(start_server: Start, bitstream: Bitstream) -> None:
    server = start_server({"slow": lambda: FixedTask("slow", 4.0)}, drain_deadline_s=0.5)
    client = RawClient(server.address)
    client.hello()
    client.frame(1, bitstream, tasks=("slow",))
    client.wait_for("ack")
    started = time.monotonic()
    server.stop()
    assert client.ended.wait(10)
    assert time.monotonic() - started < 3
    assert isinstance(client.error, grpc.RpcError)
    assert client.all("result") == []
    server.join()
    client.close()


def test_a_second_signal_stops_at_once(start_server: Start, bitstream: Bitstream) -> None:
    server = start_server({"slow": lambda: FixedTask("slow", 3.0)}, drain_deadline_s=30)
    client = RawClient(server.address)
    client.hello()
    client.frame(1, bitstream, tasks=("slow",))
    client.wait_for("ack")
    server.stop()
    client.wait_for("drain")
    started = time.monotonic()
    server.stop()
    assert client.ended.wait(10)
    assert time.monotonic() - started < 2
    assert not server.join()
    client.close()


def test_an_edge_session_says_that_the_server_drains(
    start_server: Start, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    server = start_server({"slow": lambda: FixedTask("slow", 0.3)})
    with EdgeSession(server.address, encoder=encoder) as session:
        results = session.stream([image] * 1000, state=4)
        assert next(results).error is None
        server.stop()
        with pytest.raises(SessionError) as caught:
            list(results)
        assert caught.value.reason == "draining"
    assert server.join()


def test_a_picture_past_its_deadline_frees_the_worker_and_the_process_ends_well(
    encoder: EdgeEncoder, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    big = np.zeros((4000, 6000, 3), np.uint8)
    large = encoder.encode(big, state=4)
    small = encoder.encode(big[:64, :64], state=4)
    config = tmp_path / "server.yaml"
    config.write_text("frame_deadline_s: 1.0\ndeadline_per_megapixel_s: 0\ndrain_deadline_s: 1\n")
    arguments = ("--bundle", tiny_bundle.origin, "--tasks", "none", "--config", str(config))
    with server_process(*arguments, log=tmp_path / "log") as (process, ready):
        with (
            EdgeSession(ready["listening"], bundle=tiny_bundle) as session,
            EdgeSession(ready["listening"], bundle=tiny_bundle) as other,
        ):
            with pytest.raises(FeatherwireError) as caught:
                session.send(large, picture=True)
            assert caught.value.reason == "deadline_exceeded"
            assert other.send(small, picture=True).picture is not None
            with pytest.raises(FeatherwireError):
                session.send(large, picture=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert '"event": "stopped"' in (tmp_path / "log").read_text()


def test_a_large_picture_may_take_longer() -> None:
    assert frame_deadline(30.0, 640, 480) == 30.0
    assert frame_deadline(30.0, 6000, 4000) == pytest.approx(168.0)
    assert frame_deadline(1.0, 2000, 1000, 0.5) == pytest.approx(1.5)


BUSY_SERVER = """
import time
import torch
import cloud_server.engine.spec as spec
from cloud_server.cli import main

class Busy:
    models = []
    def run(self, images):
        matrix = torch.rand(512, 512)
        until = time.monotonic() + 60
        while time.monotonic() < until:
            matrix = torch.nn.functional.normalize(matrix @ matrix)
        return []

spec.open_task = lambda *arguments, **options: Busy()
main()
"""


def test_a_process_with_a_busy_worker_ends_without_an_abort(
    bitstream: Bitstream, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    arguments = ("--bundle", tiny_bundle.origin, "--tasks", "detection", "--drain-deadline", "0.2")
    log = tmp_path / "log"
    with server_process(*arguments, log=log, code=BUSY_SERVER) as (process, ready):
        client = RawClient(ready["listening"])
        client.hello()
        client.frame(1, bitstream, tasks=("detection",))
        client.wait_for("ack")
        time.sleep(0.5)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 1  # a frame was cut
        client.close()
    assert '"workers_stopped": false' in log.read_text()
