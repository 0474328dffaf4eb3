"""What fails only once a bundle is in use takes the device back to the one before."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edge_client.session import EdgeSession
from edge_client.session.bundle_update import MAX_TRIALS
from edge_client.spool import Spool
from shared.bundle import Bundle
from shared.errors import BundleError, FeatherwireError, PhotoError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.wire import FrameOutcome
from shared.wire.results import outcome_from_message
from tests.support.messages import analysis_message
from tests.support.scripted_server import Requests, ScriptedServer, answer, say, welcome

Image = NDArray[np.uint8]
Responses = Iterator[ingest_pb2.ConnectResponse]


class Fickle(ScriptedServer):
    """Finds the new bundle good in a trial, and refuses the session's first frame with it."""

    def __init__(self, old: Bundle, new: Bundle, refusal: FeatherwireError) -> None:
        self.replies: list[fleet_pb2.CommandReply] = []
        self.used: list[bytes] = []
        self.trials = 0

        def script(number: int, hello: ingest_pb2.Hello, requests: Requests) -> Responses:
            yield welcome(hello, bundle_id=old.id, accepted_bundle_ids=[old.id, new.id])
            command = fleet_pb2.Command(command_id="b")
            command.use_bundle.bundle_id = new.id
            yield say(command=command)
            for request in requests:
                if request.WhichOneof("message") == "command_reply":
                    self.replies.append(request.command_reply)
                elif request.WhichOneof("message") == "frame":
                    frame = request.frame
                    self.used.append(frame.features[0].bundle_short_id)
                    bad = self.used[-1] == new.short_id
                    outcome = outcome_from_message(analysis_message())
                    if bad:
                        outcome = FrameOutcome(error=refusal)
                    yield from answer(frame, frame.sequence, outcome)

        super().__init__(script)

    def Analyze(
        self, request: ingest_pb2.AnalyzeRequest, context: object
    ) -> ingest_pb2.AnalyzeResponse:
        self.trials += 1
        return ingest_pb2.AnalyzeResponse(outcome=analysis_message())


def put_into_cache(folder: Path, bundle: Bundle) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{bundle.id}.zip").write_bytes(bundle.to_zip())


@pytest.mark.parametrize("spooled", [True, False])
def test_a_server_that_refuses_the_first_frame_ends_it(
    tiny_bundle: Bundle, other: Bundle, image: Image, tmp_path: Path, spooled: bool
) -> None:
    put_into_cache(tmp_path / "cache", other)
    refusal = BundleError("bad_decoder", "this server cannot make anything of it")
    with (
        Spool.open(tmp_path / "spool") as spool,
        Fickle(tiny_bundle, other, refusal) as server,
        EdgeSession(
            server.address,
            device="cam",
            bundle=tiny_bundle,
            spool=spool if spooled else None,
            bundle_cache_dir=tmp_path / "cache",
        ) as session,
    ):
        failed: list[str] = []
        deadline = time.monotonic() + 60
        while not server.replies:
            assert time.monotonic() < deadline
            try:
                session.send(image, state=4)
            except BundleError as error:
                failed.append(error.reason)
        session.send(image, state=4)
        assert [one.error.reason for one in server.replies] == ["bad_decoder"]
        assert failed == ["bad_decoder"], "one frame was lost to it, and that was said"
        assert server.used.count(other.short_id) == 1
        assert server.used[-1] == tiny_bundle.short_id
        assert session.bundle.id == tiny_bundle.id
        assert server.trials == 1
        assert spool.setting("chosen_bundle") is None


def test_a_photo_that_is_none_is_not_the_bundles_fault(
    tiny_bundle: Bundle, other: Bundle, image: Image, tmp_path: Path
) -> None:
    put_into_cache(tmp_path / "cache", other)
    refusal = BundleError("bad_decoder", "never said: no frame comes")
    with (
        Fickle(tiny_bundle, other, refusal) as server,
        EdgeSession(
            server.address, bundle=tiny_bundle, bundle_cache_dir=tmp_path / "cache"
        ) as session,
    ):
        deadline = time.monotonic() + 60
        while session.bundle.id != other.id:
            assert time.monotonic() < deadline
            if not server.trials:
                session.send(image, state=4)
                continue
            with pytest.raises(PhotoError):
                session.send(b"no photo", state=4)
        assert server.replies == [], "it is still to be seen whether the bundle works"


def test_a_bundle_that_kills_the_process_three_times_is_refused(
    tiny_bundle: Bundle, other: Bundle, image: Image, tmp_path: Path
) -> None:
    put_into_cache(tmp_path / "cache", other)
    refusal = BundleError("bad_decoder", "never said")
    with Spool.open(tmp_path / "spool") as spool:
        spool.keep("bundle_trials", {other.id: MAX_TRIALS})
        told = threading.Event()
        with (
            Fickle(tiny_bundle, other, refusal) as server,
            EdgeSession(
                server.address,
                bundle=tiny_bundle,
                spool=spool,
                bundle_cache_dir=tmp_path / "cache",
            ) as session,
        ):
            deadline = time.monotonic() + 30
            while not server.replies and time.monotonic() < deadline:
                told.wait(0.02)
            assert [one.error.reason for one in server.replies] == ["trial_failed"]
            session.send(image, state=4)
            assert server.used == [tiny_bundle.short_id]
        assert spool.setting("bundle_trials") == {}, "another command may try it again"
