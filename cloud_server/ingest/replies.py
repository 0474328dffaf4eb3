"""What a stream says of frames: acknowledged, refused, or what was said of them before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from cloud_server.ingest.sessions import Session, SessionRegistry
from cloud_server.results.records import Accepted, Submission, Version
from cloud_server.telemetry.metrics import Metrics
from shared.errors import FeatherwireError, SessionError, StorageError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import FrameOutcome
from shared.wire.results import outcome_to_message


class Outlet(Protocol):
    """What frames need of their stream."""

    def send(self, message: ingest_pb2.ConnectResponse) -> None:
        """Queue one message."""

    def settle(self) -> None:
        """Return one credit, behind the result that it belongs to."""

    def count_pixels(self, pixels: int) -> None:
        """A frame of so many pixels is being taken."""

    def changed(self) -> None:
        """A frame has left."""

    def fail(self, error: FeatherwireError) -> None:
        """End the stream with this error."""


class Replies:
    """Tells the client, and the server's metrics, what became of each frame."""

    def __init__(self, outlet: Outlet, sessions: SessionRegistry, metrics: Metrics) -> None:
        self._outlet = outlet
        self._sessions = sessions
        self._new = metrics.acknowledged.labels("new")
        self._again = metrics.acknowledged.labels("again")
        self._refused = metrics.refused

    def acknowledge(self, submission: Submission) -> None:
        """The frame is new, and durable."""
        self._new.inc()
        self._acknowledge(submission.sequence, submission.version, duplicate=False)

    def repeat(
        self, session: Session, sequence: int, version: Version, accepted: Accepted
    ) -> Submission | None:
        """The frame was accepted before: acknowledge it, and repeat its result if it has one.

        Returns it when it has none and nobody is at it: a commit had logged it of which we heard
        that it had failed. ``in_flight`` counts it no longer otherwise.
        """
        submission = accepted.submission
        if submission is not None and not version[0]:
            version = submission.version
        self._again.inc()
        self._acknowledge(sequence, version, duplicate=True)
        if submission is not None and accepted.record is None:
            if submission.id not in session.processing:
                session.processing.add(submission.id)
                return submission
            # Its result is on its way, and brings its own credit.
            session.in_flight -= 1
            self._outlet.settle()
            return None
        session.in_flight -= 1
        if accepted.record is not None:
            result = self._sessions.result(accepted.record)
            self._outlet.send(ingest_pb2.ConnectResponse(result=result))
            self._outlet.settle()
            return None
        self.reject(
            sequence,
            version,
            SessionError(
                "result_not_kept",
                f"frame {sequence} was processed before, and its result is no longer kept",
            ),
        )
        return None

    def reject(self, sequence: int, version: Version, error: FeatherwireError) -> None:
        """A result that says why the frame was not taken; it has no number and is not kept."""
        self._refused.labels(error.reason).inc()
        bundle_id, state = version
        result = ingest_pb2.Result(
            sequence=sequence,
            state=state,
            outcome=outcome_to_message(FrameOutcome(error=error)),
            bundle_short_id=bundle_id,
        )
        self._outlet.send(ingest_pb2.ConnectResponse(result=result))
        self._outlet.settle()

    def not_logged(self, session: Session, sequences: Sequence[int], error: StorageError) -> None:
        """The frames are not durable, so they are not acknowledged: the client must come again."""
        session.in_flight -= len(sequences)
        self._refused.labels(error.reason).inc(len(sequences))
        device, name = session.key
        structlog.get_logger().error(
            "frames_not_logged",
            device=device,
            session=name,
            sequence=sequences[0],
            frames=len(sequences),
            reason=error.reason,
            error=error.message,
        )
        self._outlet.fail(
            SessionError("log_unavailable", "the server cannot keep frames now; try again later")
        )

    def _acknowledge(self, sequence: int, version: Version, *, duplicate: bool) -> None:
        response = ingest_pb2.ConnectResponse()
        ack = response.ack
        ack.sequence, ack.duplicate = sequence, duplicate
        ack.bundle_short_id, ack.state = version
        self._outlet.send(response)
