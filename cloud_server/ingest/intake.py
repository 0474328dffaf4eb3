"""What a stream does with frames: checked, made durable, acknowledged, answered once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol, TypeVar

import structlog
from opentelemetry.trace import SpanKind, use_span

from cloud_server.engine import EngineFrame
from cloud_server.ingest.processing import Processing
from cloud_server.ingest.refinement import refined, replayed
from cloud_server.ingest.served import ServedBundles
from cloud_server.ingest.sessions import Session, SessionRegistry
from cloud_server.results.log import Accepted, ResultLog
from cloud_server.results.records import Version, to_us
from shared.bitstream import Bitstream
from shared.bitstream.container import BUNDLE_ID_BYTES
from shared.errors import FeatherwireError, SessionError, StorageError
from shared.limits import Limits
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import FrameOutcome
from shared.wire.requests import Refine, parse_frame, parse_refine
from shared.wire.results import outcome_to_message
from shared.wire.tracing import frame_span, tracer

Parsed = TypeVar("Parsed")

INLINE_BYTES = 256 * 2**10
"""Frames up to this size are checked on the event loop (0.1 ms); larger ones in a thread."""


class Replies(Protocol):
    """What frames need of their stream."""

    def send(self, **message: Any) -> None:
        """Queue one message, by its field of ConnectResponse."""

    def grant(self) -> None:
        """Return one credit, behind the result that it belongs to."""

    def count_pixels(self, pixels: int) -> None:
        """A frame of so many pixels is being taken."""

    def changed(self) -> None:
        """A frame has left."""

    def fail(self, error: FeatherwireError) -> None:
        """End the stream with this error."""


class Intake:
    """The frames of one stream. Each has been paid for with a credit when it comes here.

    A frame goes to the log, and the next one is read while it is being made durable; the log
    answers in the order in which frames came.
    """

    def __init__(
        self,
        outlet: Replies,
        *,
        processing: Processing,
        log: ResultLog,
        sessions: SessionRegistry,
        bundles: ServedBundles,
        picture_limits: Limits,
    ) -> None:
        self._outlet = outlet
        self._processing = processing
        self._log = log
        self._sessions = sessions
        self._bundles = bundles
        self._picture_limits = picture_limits
        self.in_flight: set[asyncio.Task[None]] = set()
        """Frames that are being made durable, or analysed."""
        self.pixels = 0
        """Of all their pictures."""

    async def take_frame(self, session: Session, message: ingest_pb2.Frame) -> None:
        """Check a frame, and let the log have it."""
        version = (b"", 0)
        if message.features:
            version = (_short(message.features[0].bundle_short_id), message.features[0].state)
        try:
            frame = await _checked(
                lambda: parse_frame(message, self._picture_limits), message.ByteSize()
            )
        except FeatherwireError as error:
            # Only this frame is wrong; its sequence stays free, so that it can be sent again.
            if not 1 <= message.sequence < 2**63:
                raise
            self._reject(message.sequence, version, error)
            return
        engine_frame = self._processing.engine_frame(frame.bitstreams, frame)
        accepted = self._log.accept(
            session.key,
            frame.sequence,
            version,
            message.SerializeToString(),
            captured_us=None if frame.captured_at is None else to_us(frame.captured_at),
            outcome=await self._processing.at_once(session.key, frame.sequence, engine_frame),
        )
        work = self._frame(
            session, frame.sequence, engine_frame, version, accepted, message.traceparent
        )
        self._start(session, work, engine_frame.pixels)

    async def take_refine(self, session: Session, message: ingest_pb2.Refine) -> None:
        """Check a refinement, and let the log have it, if it follows on what it has."""
        state = message.layers[-1].state if message.layers else 0
        version = (_short(message.bundle_short_id), state)
        try:
            refine = await _checked(
                lambda: parse_refine(message, self._picture_limits), message.ByteSize()
            )
        except FeatherwireError as error:
            self._reject(message.sequence, version, error)
            return
        self._start(session, self._refinement(session, refine, message, version))

    # -- one frame, from here on -----------------------------------------------------------------

    async def _frame(
        self,
        session: Session,
        sequence: int,
        frame: EngineFrame,
        version: Version,
        accepting: Awaitable[Accepted],
        traceparent: str,
    ) -> None:
        device, name = session.key
        span = frame_span(
            "frame", SpanKind.SERVER, traceparent, device=device, session=name,
            sequence=sequence,
        )  # fmt: skip
        with use_span(span, end_on_exit=True):
            try:
                with tracer().start_as_current_span("log"):
                    accepted = await accepting
            except StorageError as error:
                self._not_logged(session, sequence, error)
                return
            if not accepted.new:
                span.set_attribute("featherwire.duplicate", True)
                await self._repeat(session, sequence, version, accepted)
                return
            await self._process(session, accepted, frame)

    async def _refinement(
        self, session: Session, refine: Refine, message: ingest_pb2.Refine, version: Version
    ) -> None:
        def check(messages: Sequence[bytes]) -> tuple[Bitstream, ...]:
            nonlocal version
            if not messages:
                raise SessionError(
                    "refine_evicted",
                    f"the layers of frame {refine.sequence} are no longer kept; send the frame "
                    "again as a new one",
                )
            kept, _ = replayed(messages, self._bundles, self._picture_limits)
            version = (version[0] or kept[0].bundle_id, version[1])
            return refined(kept, refine, self._bundles, self._picture_limits)

        try:
            accepted = await self._log.accept_refinement(
                session.key, refine.sequence, version, message.SerializeToString(), check
            )
        except StorageError as error:
            self._not_logged(session, refine.sequence, error)
            return
        except FeatherwireError as error:
            session.in_flight -= 1
            self._reject(refine.sequence, version, error)
            return
        if not accepted.new:
            await self._repeat(session, refine.sequence, version, accepted)
            return
        engine_frame = self._processing.engine_frame(accepted.value, refine)
        self.pixels += engine_frame.pixels
        self._outlet.count_pixels(engine_frame.pixels)
        try:
            await self._process(session, accepted, engine_frame)
        finally:
            self.pixels -= engine_frame.pixels

    async def _process(self, session: Session, accepted: Accepted, frame: EngineFrame) -> None:
        submission = accepted.submission
        assert submission is not None, "what is new is in the log"
        bundle_id, state = submission.version
        self._processing.metrics.acknowledged.labels("new").inc()
        self._outlet.send(
            ack=ingest_pb2.Ack(sequence=submission.sequence, state=state, bundle_short_id=bundle_id)
        )
        if accepted.record is not None:
            self._processing.recorded(session, accepted.record)
            return
        await self._processing.run(session, submission, frame)

    async def _repeat(
        self, session: Session, sequence: int, version: Version, accepted: Accepted
    ) -> None:
        """The frame was accepted before: acknowledge it, and repeat its result if it has one."""
        submission = accepted.submission
        if submission is not None and not version[0]:
            version = submission.version
        bundle_id, state = version
        ack = ingest_pb2.Ack(
            sequence=sequence, state=state, duplicate=True, bundle_short_id=bundle_id
        )
        self._processing.metrics.acknowledged.labels("again").inc()
        self._outlet.send(ack=ack)
        if submission is not None and accepted.record is None:
            if submission.id in session.processing:
                # Its result is on its way, and brings its own credit.
                session.in_flight -= 1
                self._outlet.grant()
            else:
                # It was logged by a commit of which we heard that it had failed.
                session.processing.add(submission.id)
                await self._processing.take_up(session, submission)
            return
        session.in_flight -= 1
        if accepted.record is not None:
            self._outlet.send(result=self._sessions.result(accepted.record))
            self._outlet.grant()
            return
        self._reject(
            sequence,
            version,
            SessionError(
                "result_not_kept",
                f"frame {sequence} was processed before, and its result is no longer kept",
            ),
        )

    # -- parts -----------------------------------------------------------------------------------

    def _start(self, session: Session, work: Coroutine[Any, Any, None], pixels: int = 0) -> None:
        session.in_flight += 1
        self.pixels += pixels
        self._outlet.count_pixels(pixels)
        task = asyncio.create_task(work)
        self.in_flight.add(task)

        def left(done: asyncio.Task[None]) -> None:
            self.in_flight.discard(done)
            self.pixels -= pixels
            self._sessions.let_go(session)
            if not done.cancelled() and done.exception() is not None:
                structlog.get_logger().error("frame_lost", exc_info=done.exception())
            self._outlet.changed()

        task.add_done_callback(left)

    def _not_logged(self, session: Session, sequence: int, error: StorageError) -> None:
        """The frame is not durable, so it is not acknowledged: the client must come again."""
        session.in_flight -= 1
        self._processing.metrics.refused.labels(error.reason).inc()
        device, name = session.key
        structlog.get_logger().error(
            "frame_not_logged",
            device=device,
            session=name,
            sequence=sequence,
            reason=error.reason,
            error=error.message,
        )
        self._outlet.fail(
            SessionError("log_unavailable", "the server cannot keep frames now; try again later")
        )

    def _reject(self, sequence: int, version: Version, error: FeatherwireError) -> None:
        """A result that says why the frame was not taken; it has no number and is not kept."""
        self._processing.metrics.refused.labels(error.reason).inc()
        bundle_id, state = version
        result = ingest_pb2.Result(
            sequence=sequence,
            state=state,
            outcome=outcome_to_message(FrameOutcome(error=error)),
            bundle_short_id=bundle_id,
        )
        self._outlet.send(result=result)
        self._outlet.grant()


async def _checked(parse: Callable[[], Parsed], message_bytes: int) -> Parsed:
    """Run ``parse`` here when it is quick, in a thread when it is not."""
    if message_bytes <= INLINE_BYTES:
        return parse()
    return await asyncio.to_thread(parse)


def _short(bundle_id: bytes) -> bytes:
    """What goes back to a client of an id that may be of any length."""
    return bundle_id[:BUNDLE_ID_BYTES]
