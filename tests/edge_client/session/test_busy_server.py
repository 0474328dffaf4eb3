"""A busy server: the device waits for what the server says that it has, and gives up nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.encoder import EdgeEncoder
from edge_client.session import EdgeSession, frames
from edge_client.spool import Spool
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import FrameOutcome, error_to_message
from shared.wire.results import outcome_to_message
from shared.wire.transport import ERROR_METADATA_KEY
from tests.support.scripted_server import Requests, ScriptedServer, answer, say, welcome

OUTCOME = FrameOutcome(error=FeatherwireError("made_up", "a result that this test made up"))
DEADLINE_S = 0.4
SETTINGS = ingest_pb2.ServerSettings(frame_deadline_s=DEADLINE_S)


@pytest.fixture(autouse=True)
def no_margin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frames, "RESULT_MARGIN_S", 0.0)


def script(
    number: int, hello: ingest_pb2.Hello, requests: Requests
) -> Iterator[ingest_pb2.ConnectResponse]:
    """One frame at a time, each after three deadlines, in which the server says that it has it."""
    yield welcome(hello, credits=1, settings=SETTINGS)
    taken = 0
    for request in requests:
        if request.WhichOneof("message") != "frame":
            continue
        taken += 1
        acknowledged, *rest = answer(request.frame, taken, OUTCOME)
        yield acknowledged
        until = time.monotonic() + 3 * DEADLINE_S
        while time.monotonic() < until:
            time.sleep(DEADLINE_S / 4)
            yield say(backlog=ingest_pb2.Backlog(frames=1))
        yield from rest


def test_a_sender_waits_while_the_server_says_that_it_has_the_frame(
    encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    with ScriptedServer(script) as server, EdgeSession(server.address, encoder=encoder) as session:
        with pytest.raises(FeatherwireError) as caught:
            session.send(image)
        assert caught.value.reason == "made_up"
        # The second one waits for the credit of the first as well.
        reasons = [r.error.reason for r in session.stream([image] * 3) if r.error is not None]
        assert reasons == ["made_up"] * 3


def test_a_spool_waits_while_the_server_says_that_it_has_the_frame(
    encoder: EdgeEncoder, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    with (
        ScriptedServer(script) as server,
        Spool.open(tmp_path) as spool,
        EdgeSession(server.address, encoder=encoder, spool=spool) as session,
    ):
        reasons = [r.error.reason for r in session.stream([image] * 2) if r.error is not None]
        assert reasons == ["made_up"] * 2


def test_a_deadline_of_the_callers_own_is_kept(
    encoder: EdgeEncoder, image: NDArray[np.uint8]
) -> None:
    with (
        ScriptedServer(script) as server,
        EdgeSession(server.address, encoder=encoder, deadline_s=DEADLINE_S) as session,
        pytest.raises(SessionError) as caught,
    ):
        session.send(image)
    assert caught.value.reason == "deadline_exceeded"


def test_a_call_that_finds_the_server_busy_tries_again(
    encoder: EdgeEncoder, image: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []

    def analyze(
        self: ScriptedServer, request: ingest_pb2.AnalyzeRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.AnalyzeResponse:
        calls.append(time.monotonic())
        if len(calls) < 3:
            error = error_to_message(SessionError("busy", "more to do than it can; try again"))
            context.set_trailing_metadata(((ERROR_METADATA_KEY, error.SerializeToString()),))
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, error.message)
        return ingest_pb2.AnalyzeResponse(outcome=outcome_to_message(OUTCOME))

    monkeypatch.setattr(ScriptedServer, "Analyze", analyze)
    with (
        ScriptedServer(script) as server,
        EdgeSession(server.address, encoder=encoder, deadline_s=30) as session,
        pytest.raises(FeatherwireError) as caught,
    ):
        session.analyze(image)
    assert caught.value.reason == "made_up"
    assert len(calls) == 3
