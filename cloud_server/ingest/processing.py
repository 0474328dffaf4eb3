"""The processing of frames: from the log to the engine, and the result into the log.

Frames that a server left without a result are taken up by the next one.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import structlog
from opentelemetry.trace import Span, StatusCode

from cloud_server.engine import Engine, EngineFrame, EngineOutcome
from cloud_server.ingest.answers import Answers
from cloud_server.ingest.bundles import ServedBundles
from cloud_server.ingest.flow import StreamLimits
from cloud_server.ingest.references import References, Values
from cloud_server.ingest.refinement import RefinePolicy, replayed
from cloud_server.ingest.sessions import Session, SessionRegistry
from cloud_server.results.log import ResultLog
from cloud_server.results.records import Record, SessionKey, Submission
from cloud_server.results.sequence_counters import MOVED
from cloud_server.telemetry.metrics import OK, FrameNotes, Metrics
from shared.bitstream import Bitstream
from shared.errors import FeatherwireError, SessionError, StorageError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import types_pb2
from shared.wire import error_to_message
from shared.wire.requests import Frame, Refine
from shared.wire.results import outcome_to_message
from shared.wire.tracing import tracer
from shared.words import counted

T = TypeVar("T")

MAX_ATTEMPTS = 5
"""Restarts during which a frame may be without a result; then its result is an error."""

RECOVERED_AT_ONCE = 4
"""Frames of before the restart that are processed at a time, beside new ones."""

RETRY_S = (0.1, 0.5, 2.0, 5.0)
"""Pauses before a result that could not be recorded is tried again; the last one goes on."""


class Processing:
    """Analyses frames that are in the log, and records what comes of them."""

    def __init__(
        self,
        *,
        engine: Engine,
        log: ResultLog,
        sessions: SessionRegistry,
        bundles: ServedBundles,
        references: References,
        limits: StreamLimits,
        picture_limits: Limits = DEFAULT_LIMITS,
        refine_policy: RefinePolicy | None = None,
        metrics: Metrics | None = None,
        reuse_results: bool = True,
    ) -> None:
        """reuse_results: whether a frame in which no value changed has the last one's result."""
        self.metrics = metrics or Metrics()
        self._notes = FrameNotes(self.metrics, bundles.all)
        self._kept: list[tuple[Bitstream, int]] = []
        self._engine = engine
        self._log = log
        self._sessions = sessions
        self._bundles = bundles
        self._limits = limits
        self._picture_limits = picture_limits
        self._refine_policy = refine_policy
        self.references = references
        self._answers = Answers() if reuse_results else None
        self._closing = False
        self._recovery: list[asyncio.Task[None]] = []

    def engine_frame(
        self, bitstreams: tuple[Bitstream, ...], last: Frame | Refine, values: Values
    ) -> EngineFrame:
        """The frame as the engine gets it, when its last message was ``last``."""
        refined = None
        if isinstance(last, Refine):
            refined = last.bundle_id or bitstreams[0].bundle_id
        deadline_s = self._limits.deadline_of(bitstreams[0])
        return EngineFrame(
            bitstreams,
            last.tasks,
            last.picture,
            deadline_s,
            refined=refined,
            decoded=values.decoded,
        )

    async def logged_frame(
        self,
        session: Session,
        submission: Submission,
        bitstreams: tuple[Bitstream, ...],
        last: Frame | Refine,
    ) -> EngineFrame | None:
        """The same of what the log has; None when it cannot be decoded, which is its result."""
        values = await self._persist(
            submission,
            lambda: self._values(submission, bitstreams),
        )
        if values is None:
            self._sessions.abandoned(session)
            return None
        if isinstance(values, FeatherwireError):
            await self._refuse(session, submission, values)
            return None
        return self.engine_frame(bitstreams, last, values)

    async def _values(
        self, submission: Submission, bitstreams: tuple[Bitstream, ...]
    ) -> Values | FeatherwireError:
        try:
            return await self.references.values(
                submission.key, submission.sequence, bitstreams, refined=submission.number > 0
            )
        except StorageError:
            raise
        except FeatherwireError as error:
            return error

    async def run(
        self,
        session: Session,
        submission: Submission,
        frame: EngineFrame,
        same_as: int | None = None,
    ) -> None:
        """Analyse, record, and hand the result to the stream that the session has by then.

        The session's ``in_flight`` counts the frame already. same_as: see ``Values``.
        """
        session.processing.add(submission.id)
        try:
            with tracer().start_as_current_span("analyse") as span:
                outcome = await self._outcome(session, submission, frame, same_as)
                _describe(span, outcome)
            policy = self._refine_policy
            command = (
                policy.command(submission.sequence, frame, outcome) if policy is not None else None
            )
            message = outcome_to_message(outcome)
            with tracer().start_as_current_span("record"):
                record = await self._record(submission, message)
            if record is not None:
                picture = message.picture if message.HasField("picture") else None
                session.processing.discard(submission.id)
                self._sessions.completed(session, record, picture, command)
            else:
                self._sessions.abandoned(session)
        finally:
            session.processing.discard(submission.id)

    def at_once(
        self, key: SessionKey, sequence: int, frame: EngineFrame
    ) -> types_pb2.FrameOutcome | None:
        """The outcome of a frame that asks for no task and no picture; None for others.

        ``note_kept`` is to follow.
        """
        if not frame.asks_nothing:
            return None
        try:
            bundles = [self._bundles.of(one.bundle_id) for one in frame.bitstreams]
        except FeatherwireError as error:
            _log_failed(key, sequence, error)
            self._notes.frame(frame.bitstreams, error.reason, failed=True)
            return types_pb2.FrameOutcome(error=error_to_message(error))
        first = frame.bitstreams[0]
        payload_bytes = frame.payload_bytes
        if len(bundles) == 1:
            self._kept.append((first, payload_bytes))
        else:
            self._notes.frame(frame.bitstreams, OK, failed=False)
        outcome = types_pb2.FrameOutcome()
        analysis = outcome.analysis
        analysis.width, analysis.height, analysis.state = first.width, first.height, first.state
        analysis.bundle_id = bundles[0].id
        analysis.payload_bytes = payload_bytes
        analysis.bits_per_pixel = 8.0 * payload_bytes / frame.pixels
        return outcome

    def note_kept(self) -> None:
        """Count the frames that ``at_once`` was asked about."""
        self._notes.kept(self._kept)
        self._kept.clear()

    def recorded(self, session: Session, records: Sequence[Record]) -> None:
        """Hand results that were recorded with their frames to the session's stream."""
        self._sessions.kept(session, records)

    # -- after a restart -------------------------------------------------------------------------

    async def recover(self) -> int:
        """Take up the frames that a server before left without a result; returns how many.

        They are processed in the background, and count as in flight from now on.
        """
        return self.take_over(await self._log.pending())

    async def adopt(self, key: SessionKey) -> None:
        """Take up the frames that another server left of a session that has come here."""
        self.take_over(await self._log.taken(key))

    def take_over(self, pending: Sequence[Submission]) -> int:
        """Process unfinished frames in the background; returns how many."""
        for submission in pending:
            session = self._sessions.get(submission.key)
            session.in_flight += 1
            session.processing.add(submission.id)
        waiting = iter(pending)
        self._recovery = [one for one in self._recovery if not one.done()] + [
            asyncio.create_task(self._recover(waiting))
            for _ in range(min(RECOVERED_AT_ONCE, len(pending)))
        ]
        if pending:
            structlog.get_logger().info("recovering", frames=len(pending))
        return len(pending)

    async def close(self) -> None:
        """Record nothing more; unfinished frames are taken up at the next start."""
        self._closing = True
        for task in self._recovery:
            task.cancel()
        await asyncio.gather(*self._recovery, return_exceptions=True)
        self.references.close()

    async def take_up(self, session: Session, submission: Submission) -> None:
        """Process a frame from its messages in the log; ``in_flight`` counts it already."""
        tried = await self._persist(submission, lambda: self._log.attempt(submission))
        if tried is None:
            return
        try:
            bitstreams, last = await asyncio.to_thread(self._replayed, *tried)
        except FeatherwireError as error:
            await self._refuse(session, submission, error)
            return
        frame = await self.logged_frame(session, submission, bitstreams, last)
        if frame is not None:
            await self.run(session, submission, frame)

    async def _recover(self, waiting: Iterable[Submission]) -> None:
        for submission in waiting:
            try:
                await self.take_up(self._sessions.get(submission.key), submission)
            except Exception as error:  # noqa: BLE001  # the others must not wait for ever
                _log_of(submission).error("not_taken_up", exc_info=error)

    def _replayed(
        self, attempts: int, messages: Sequence[bytes]
    ) -> tuple[tuple[Bitstream, ...], Frame | Refine]:
        if attempts > MAX_ATTEMPTS:
            raise SessionError(
                "abandoned",
                f"the server stopped {counted(attempts - 1, 'time')} while it had this frame",
            )
        if not messages:
            raise SessionError(
                "refine_evicted", "the layers that were to be refined are no longer kept"
            )
        return replayed(messages, self._bundles, self._picture_limits)

    async def _refuse(
        self, session: Session, submission: Submission, error: FeatherwireError
    ) -> None:
        message = outcome_to_message(EngineOutcome(error=error))
        record = await self._record(submission, message)
        session.processing.discard(submission.id)
        if record is not None:
            self._sessions.completed(session, record, None)
        else:
            self._sessions.abandoned(session)

    # -- parts -----------------------------------------------------------------------------------

    async def _outcome(
        self, session: Session, submission: Submission, frame: EngineFrame, same_as: int | None
    ) -> EngineOutcome:
        key, sequence = submission.key, submission.sequence
        # Pictures are kept to be painted over where others like them are to come.
        stream = "/".join(key) if session.predicts else ""
        frame = replace(frame, device=key[0], stream=stream)
        try:
            if self._answers is None or not stream or frame.refined is not None:
                outcome = await self._engine.submit(frame)
            else:
                outcome = await self._answers.outcome(
                    key, sequence, frame, same_as, lambda: self._engine.submit(frame)
                )
            if outcome.analysis is not None and outcome.analysis.unchanged_since is not None:
                self._notes.frame(frame.bitstreams, OK, failed=False)
                self.metrics.unchanged.inc()
            if outcome.error is not None:
                _log_failed(key, sequence, outcome.error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets its result
            _log_of_frame(key, sequence).error("frame_crashed", exc_info=error)
            outcome = EngineOutcome(
                error=FeatherwireError("internal_error", "the frame could not be processed")
            )
        return outcome

    async def _record(
        self, submission: Submission, message: types_pb2.FrameOutcome
    ) -> Record | None:
        """The record, once it is durable; None when the server stops before that."""
        return await self._persist(submission, lambda: self._log.complete(submission, message))

    async def _persist(self, submission: Submission, write: Callable[[], Awaitable[T]]) -> T | None:
        """The value of ``write``, retried until the database takes it; None when we stop."""
        pauses_s = itertools.chain(RETRY_S, itertools.repeat(RETRY_S[-1]))
        for pause_s in pauses_s:
            if self._closing:
                break  # an engine that is closed answers with errors that are no results
            try:
                return await write()
            except StorageError as error:
                if error.reason == MOVED:
                    _log_of(submission).info("left_to_another_server")
                    break
                _log_of(submission).error(
                    "log_unavailable", reason=error.reason, error=error.message, again_s=pause_s
                )
            await asyncio.sleep(pause_s)
        return None


def _describe(span: Span, outcome: EngineOutcome) -> None:
    """Put into the span what the stages took, in milliseconds, and what went wrong."""
    if outcome.error is not None:
        span.set_status(StatusCode.ERROR, outcome.error.reason)
    if outcome.analysis is not None:
        for stage, milliseconds in outcome.analysis.milliseconds.items():
            span.set_attribute(f"featherwire.ms.{stage}", milliseconds)
        span.set_attribute("featherwire.bits_per_pixel", outcome.analysis.bits_per_pixel)


def _log_failed(key: SessionKey, sequence: int, error: FeatherwireError) -> None:
    _log_of_frame(key, sequence).warning("frame_failed", reason=error.reason, error=error.message)


def _log_of(submission: Submission) -> Any:
    return _log_of_frame(submission.key, submission.sequence)


def _log_of_frame(key: SessionKey, sequence: int) -> Any:
    device, session = key
    return structlog.get_logger().bind(device=device, session=session, sequence=sequence)
