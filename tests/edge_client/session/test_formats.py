"""A device and a server of an older release: frames are coded in the format that it reads."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client import EdgeSession
from edge_client.encoder import EdgeEncoder
from edge_client.spool import Spool
from shared.bitstream import FORMAT_VERSION, FORMAT_VERSIONS, Bitstream, Layer
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2, types_pb2
from shared.wire import FrameOutcome
from shared.wire.features import features_message, parse_features
from tests.support.scripted_server import Requests, ScriptedServer, answer, say, welcome

Responses = Iterator[ingest_pb2.ConnectResponse]
OUTCOME = FrameOutcome(error=FeatherwireError("made_up", "a result that this test made up"))


def old_server(got: list[types_pb2.Features]) -> ScriptedServer:
    """It says nothing of formats, and lists its bundles."""

    def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        yield welcome(hello, accepted_bundle_ids=[hello.bundle_id])
        for request in requests:
            if request.WhichOneof("message") == "frame":
                got.extend(request.frame.features)
                yield from answer(request.frame, request.frame.sequence, OUTCOME)

    return ScriptedServer(script)


def test_photos_and_files_go_to_an_old_server_as_it_reads_them(
    encoder: EdgeEncoder,
    image: NDArray[np.uint8],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    wanted = encoder.encode(image, state=2, version=3)
    file = tmp_path / "new.fwf"
    file.write_bytes(encoder.encode(image, state=2, version=4).to_bytes())
    got: list[types_pb2.Features] = []
    with old_server(got) as server, EdgeSession(server.address, encoder=encoder) as session:
        list(session.stream([image, file, wanted], state=2))
        with pytest.raises(FeatherwireError, match="made up"):
            session.send(Bitstream.from_bytes(file.read_bytes()))
    assert [parse_features(one) for one in got] == [wanted] * 4
    warnings = [one.message for one in caplog.records if one.levelno == logging.WARNING]
    assert [f"up to format 3: frames are coded in that, not in {FORMAT_VERSION}" in one
            for one in warnings] == [True]  # fmt: skip


def test_frames_that_were_spooled_for_a_new_server_are_coded_again_for_an_old_one(
    encoder: EdgeEncoder, image: NDArray[np.uint8], tmp_path: Path
) -> None:
    def newer(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
        yield welcome(hello, format_versions=FORMAT_VERSIONS, credits=0)
        yield say(drain=ingest_pb2.Drain(deadline_s=0.1))

    wanted = [encoder.encode(image, state=state, version=3) for state in (3, 1)]
    with Spool.open(tmp_path / "spool") as spool:
        with (
            ScriptedServer(newer) as server,
            EdgeSession(server.address, encoder=encoder, spool=spool) as session,
        ):
            for one in wanted:
                with pytest.raises(SessionError, match="is kept in"):
                    session.send(image, state=one.state)
        assert len(spool.queued()) == 2
        kept = spool.next_after(0)
        assert kept is not None
        assert parse_features(kept.message.features[0]).version == 4
        got: list[types_pb2.Features] = []
        with (
            old_server(got) as server,
            EdgeSession(server.address, encoder=encoder, spool=spool) as session,
        ):
            results = list(session.flush())
        assert {result.error.reason for result in results if result.error} == {"made_up"}
        assert spool.queued() == {}
    assert [parse_features(one) for one in got] == wanted


def test_a_spooled_frame_of_a_bundle_that_is_not_here_fails_alone_and_says_why(
    encoder: EdgeEncoder, tmp_path: Path
) -> None:
    foreign = Bitstream(b"elsewher", 64, 64, 0, (Layer(0, b"x"),), version=4)
    got: list[types_pb2.Features] = []
    with Spool.open(tmp_path / "spool") as spool:
        spool.put(ingest_pb2.Frame(features=[features_message(foreign)]))
        with (
            old_server(got) as server,
            EdgeSession(server.address, encoder=encoder, spool=spool) as session,
        ):
            (result,) = session.flush()
        assert result.error is not None
        assert result.error.reason == "format_unsupported"
        assert "its bundle 656c736577686572 is not on this device" in result.error.message
    assert got == []
