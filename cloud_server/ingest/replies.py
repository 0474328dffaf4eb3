"""What a client is told of each frame: that it is kept, that it was before, or why it is not."""

from __future__ import annotations

import time
from collections.abc import Sequence

import structlog

from cloud_server.ingest.sessions import DeviceStream, Session, SessionRegistry
from cloud_server.results.records import Accepted, Submission, Version
from cloud_server.telemetry.metrics import Metrics
from shared.errors import FeatherwireError, SessionError, StorageError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import FrameOutcome
from shared.wire.results import outcome_to_message

MOST_HELD_MS = 2**32 - 1


class Replies:
    """Messages to the client about each frame, and their counts in the metrics."""

    def __init__(self, stream: DeviceStream, sessions: SessionRegistry, metrics: Metrics) -> None:
        self._stream = stream
        self._sessions = sessions
        self._new = metrics.acknowledged.labels("new")
        self._again = metrics.acknowledged.labels("again")
        self._refused = metrics.refused

    def acknowledge(self, submission: Submission, came_s: float) -> None:
        """Acknowledge a frame that is new, and durable now. came_s: when, by ``time.monotonic``."""
        self._new.inc()
        self._acknowledge(submission.sequence, submission.version, came_s, duplicate=False)

    def repeat(
        self,
        session: Session,
        sequence: int,
        version: Version,
        accepted: Accepted,
        came_s: float,
    ) -> Submission | None:
        """Acknowledge a frame that was accepted before, and repeat its result if it has one.

        Returns it when it has none and nobody is at it: a commit had logged it of which we heard
        that it had failed. ``in_flight`` counts it no longer otherwise.
        """
        submission = accepted.submission
        if submission is not None and not version[0]:
            version = submission.version
        self._again.inc()
        self._acknowledge(sequence, version, came_s, duplicate=True)
        if submission is not None and accepted.record is None:
            if submission.id not in session.processing:
                session.processing.add(submission.id)
                return submission
            # Its result is on its way, and brings its own credit.
            session.in_flight -= 1
            self._stream.settle()
            return None
        session.in_flight -= 1
        if accepted.record is not None:
            result = self._sessions.result(accepted.record)
            self._stream.send(ingest_pb2.ConnectResponse(result=result))
            self._stream.settle()
            return None
        self.reject(sequence, version, result_not_kept(sequence))
        return None

    def reject(self, sequence: int, version: Version, error: FeatherwireError) -> None:
        """Refuse a frame that has cost a credit."""
        self.refuse(sequence, version, error)
        self._stream.settle()

    def refuse(self, sequence: int, version: Version, error: FeatherwireError) -> None:
        """Send a result that says why there is none; it has no number and is not kept."""
        self._refused.labels(error.reason).inc()
        bundle_id, state = version
        result = ingest_pb2.Result(
            sequence=sequence,
            state=state,
            outcome=outcome_to_message(FrameOutcome(error=error)),
            bundle_short_id=bundle_id,
        )
        self._stream.send(ingest_pb2.ConnectResponse(result=result))

    def not_logged(self, session: Session, sequences: Sequence[int], error: StorageError) -> None:
        """End the stream over frames that could not be made durable; the client must come again."""
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
        self._stream.fail(
            SessionError("log_unavailable", "the server cannot keep frames now; try again later")
        )

    def _acknowledge(
        self, sequence: int, version: Version, came_s: float, *, duplicate: bool
    ) -> None:
        response = ingest_pb2.ConnectResponse()
        ack = response.ack
        ack.sequence, ack.duplicate = sequence, duplicate
        ack.bundle_short_id, ack.state = version
        ack.held_ms = min(MOST_HELD_MS, round(1000 * (time.monotonic() - came_s)))
        self._stream.send(response)


def result_not_kept(sequence: int) -> SessionError:
    """The answer to a frame of which nothing but the number is known."""
    return SessionError(
        "result_not_kept",
        f"frame {sequence} was processed before, and its result is no longer kept",
    )
