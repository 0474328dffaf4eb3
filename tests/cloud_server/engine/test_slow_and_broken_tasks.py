"""A slow task, a broken one, a missing one: what each may not do to others."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession
from shared.bitstream import Bitstream
from shared.errors import FeatherwireError, ModelError, SessionError
from shared.rpc.errors import error_from_call
from shared.wire import PictureRequest
from tests.support.raw_client import RawClient
from tests.support.servers import FixedTask, ServerThread

Start = Callable[..., ServerThread]


@pytest.fixture
def bitstream(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> Bitstream:
    return encoder.encode(image)


def test_a_slow_task_does_not_stall_another_stream(
    start_server: Start, encoder: EdgeEncoder, bitstream: Bitstream
) -> None:
    server = start_server(
        {"slow": lambda: FixedTask("slow", 1.0), "quick": lambda: FixedTask("quick")},
        queue_size=2,
        credits=4,
    )
    slow_done: list[float] = []

    def use_slow() -> None:
        with EdgeSession(server.address, bundle=encoder.bundle) as session:
            for result in session.stream([bitstream] * 5, tasks=["slow"]):
                assert result.raise_for_error().tasks["slow"].detections
                slow_done.append(time.monotonic())

    thread = threading.Thread(target=use_slow)
    thread.start()
    with EdgeSession(server.address, bundle=encoder.bundle) as session:
        session.send(bitstream, tasks=["quick"])
        while server.engine._task_stages["slow"].pending < 4:  # the slow stream is stuck by now
            time.sleep(0.01)
        for result in session.stream([bitstream] * 20, tasks=["quick"]):
            assert result.raise_for_error().tasks["quick"].detections
        quick_done = time.monotonic()
    thread.join(20)
    assert len(slow_done) == 5
    assert slow_done[-2] > quick_done  # it was stuck the whole time


def test_results_come_in_order_of_completion(start_server: Start, bitstream: Bitstream) -> None:
    server = start_server({"slow": lambda: FixedTask("slow", 0.5)})
    client = RawClient(server.address)
    client.hello()
    client.frame(1, bitstream, tasks=("slow",))
    client.frame(2, bitstream)
    results = client.wait_for("result", 2)
    assert [(r.result_id, r.sequence) for r in results] == [(1, 2), (2, 1)]
    client.close()


def test_a_task_that_raises_fails_alone_in_its_own_frame(
    start_server: Start, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    server = start_server(
        {
            "picky": lambda: FixedTask("picky", fails_at_width=64),
            "calm": lambda: FixedTask("calm"),
        }
    )
    with EdgeSession(server.address, encoder=encoder) as session:
        assert session.available_tasks == ("picky", "calm")
        narrow = session.send(image[:, :64], state=4, picture=True)
        wide = session.send(image, state=4)
    assert narrow.task_errors["picky"].reason == "internal_error"
    assert "ZeroDivisionError" in narrow.task_errors["picky"].message
    assert set(narrow.tasks) == {"calm"}
    assert narrow.image().shape == (96, 64, 3)
    assert set(wide.raise_for_error().tasks) == {"picky", "calm"}


def test_a_task_without_weights_is_named_and_the_command_told(
    start_server: Start, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    def open_without_weights() -> Any:
        raise ModelError(
            "weights_missing", "no weights", command="featherwire-cloud models fetch x"
        )

    server = start_server({"poor": open_without_weights, "calm": lambda: FixedTask("calm")})
    with EdgeSession(server.address, encoder=encoder) as session:
        assert session.available_tasks == ("calm",)
        known = session.unavailable_tasks["poor"]
        result = session.send(image, state=4, tasks=["poor", "calm"])
    for error in (known, result.task_errors["poor"]):
        assert isinstance(error, ModelError)
        assert error.reason == "weights_missing"
        assert error.command == "featherwire-cloud models fetch x"
    assert set(result.tasks) == {"calm"}


def test_a_frame_past_its_deadline_says_so_and_keeps_what_was_ready(
    start_server: Start, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    server = start_server(
        {"slow": lambda: FixedTask("slow", 3.0), "calm": lambda: FixedTask("calm")},
        frame_deadline_s=0.5,
    )
    with EdgeSession(server.address, encoder=encoder) as session:
        started = time.monotonic()
        result = session.send(image, state=4, picture=True)
        assert time.monotonic() - started < 2.5
    assert result.task_errors["slow"].reason == "deadline_exceeded"
    assert set(result.tasks) == {"calm"}
    assert result.picture is not None


def test_a_client_gives_up_at_its_own_deadline(
    start_server: Start, encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    server = start_server({"slow": lambda: FixedTask("slow", 1.0)})
    with (
        EdgeSession(server.address, encoder=encoder, deadline_s=0.2) as session,
        pytest.raises(SessionError) as caught,
    ):
        session.send(image, state=4)
    assert caught.value.reason == "deadline_exceeded"


def test_a_client_that_reads_nothing_is_cut_off_and_others_are_served(
    start_server: Start, encoder: EdgeEncoder
) -> None:
    server = start_server(write_timeout_s=1.0, credits=48)
    noise = np.random.default_rng(3).integers(0, 255, (1024, 1024, 3)).astype(np.uint8)
    bitstream = encoder.encode(noise)
    deaf = RawClient(server.address, read=False)
    deaf.say(hello=_hello("deaf"))
    for sequence in range(1, 49):
        deaf.frame(sequence, bitstream, picture=PictureRequest())
    with EdgeSession(server.address, encoder=encoder) as session:
        for _ in range(3):
            assert session.send(noise, state=4).analysis is not None
        deadline = time.monotonic() + 40
        while server.server._ingest.open_streams > 1:
            assert time.monotonic() < deadline, "the deaf client is still there"
            time.sleep(0.05)
        assert session.send(noise, state=4).analysis is not None
    with pytest.raises(grpc.RpcError) as caught:  # once it reads, it learns why
        list(deaf.call)
    assert error_from_call(caught.value, server.address).reason == "slow_consumer"
    deaf.close()


def test_more_streams_than_the_server_takes_are_refused(
    start_server: Start, encoder: EdgeEncoder
) -> None:
    server = start_server(max_streams=1)
    with EdgeSession(server.address, encoder=encoder):
        with pytest.raises(FeatherwireError) as caught, EdgeSession(server.address):
            pass
        assert caught.value.reason == "too_many_streams"
    deadline = time.monotonic() + 5
    while server.server._ingest.open_streams:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    with EdgeSession(server.address, encoder=encoder):
        pass


def _hello(session: str) -> Any:
    from shared.proto.featherwire.v1 import ingest_pb2

    return ingest_pb2.Hello(protocol_version=1, device="d", session=session, can_switch_bundle=True)
