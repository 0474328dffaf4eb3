"""The frames of a stream: checked, made durable together, acknowledged, answered once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, set_span_in_context, use_span

from cloud_server.engine import EngineFrame
from cloud_server.ingest.bundles import ServedBundles
from cloud_server.ingest.processing import Processing
from cloud_server.ingest.refinement import refined, replayed
from cloud_server.ingest.sessions import DeviceStream, Session, SessionRegistry
from cloud_server.results.log import ResultLog
from cloud_server.results.records import (
    Accepted,
    NewFrame,
    Record,
    SessionKey,
    Submission,
    Version,
    to_us,
)
from cloud_server.telemetry.metrics import Metrics
from shared.bitstream import Bitstream
from shared.bitstream.container import BUNDLE_ID_BYTES
from shared.errors import BitstreamError, FeatherwireError, SessionError, StorageError
from shared.limits import Limits
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import FrameOutcome
from shared.wire.features import header_of
from shared.wire.requests import Refine, parse_frame, parse_refine
from shared.wire.results import outcome_to_message
from shared.wire.tracing import frame_span, tracer, tracing

Parsed = TypeVar("Parsed")

INLINE_BYTES = 256 * 2**10
"""Frames up to this size are checked on the event loop (0.1 ms); larger ones in a thread."""

GIVEN_AT_ONCE = 2
"""Lots of frames that the log has of one stream: one that is being kept, and the next."""


class Admission:
    """The frames of one stream. Each has been paid for with a credit when it comes here.

    Frames that came together go to the log together, and the next ones are read while they are
    being made durable; the log answers in the order in which frames came.
    """

    def __init__(
        self,
        stream: DeviceStream,
        *,
        processing: Processing,
        log: ResultLog,
        sessions: SessionRegistry,
        bundles: ServedBundles,
        picture_limits: Limits,
    ) -> None:
        self._stream = stream
        self._processing = processing
        self._log = log
        self._sessions = sessions
        self._bundles = bundles
        self._picture_limits = picture_limits
        self._replies = Replies(stream, sessions, processing.metrics)
        self._waiting: list[Arrival] = []
        self._traced = tracing()
        # How often the log has been given frames, and has not answered.
        self._keeping = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self.pixels = 0
        """Of all pictures that are being analysed."""
        self.bytes = 0
        """Of all messages that are being made durable, or analysed."""

    @property
    def idle(self) -> bool:
        """Whether no frame is here."""
        return not self._tasks and not self._waiting

    async def take_frame(
        self, session: Session, message: ingest_pb2.Frame, serialised: bytes
    ) -> None:
        """Check a frame; it goes to the log with the next ``flush``. serialised: as it is kept."""
        version = _version_of(message)
        try:
            frame = await _checked(
                lambda: parse_frame(message, self._picture_limits), len(serialised)
            )
        except FeatherwireError as error:
            # Only this frame is wrong; its sequence stays free, so that it can be sent again.
            if not 1 <= message.sequence < 2**63:
                raise
            self._replies.reject(message.sequence, version, error)
            return
        engine_frame = self._processing.engine_frame(frame.bitstreams, frame)
        new = NewFrame(
            frame.sequence,
            version,
            serialised,
            None if frame.captured_at is None else to_us(frame.captured_at),
            self._processing.at_once(session.key, frame.sequence, engine_frame),
        )
        arrival = Arrival(new, engine_frame)
        if self._traced:
            arrival.begin(session.key, message.traceparent)
        session.in_flight += 1
        self.pixels += arrival.pixels
        self.bytes += arrival.size
        self._stream.count_pixels(engine_frame.pixels)
        self._waiting.append(arrival)

    def forgotten(self, sequence: int) -> None:
        """Tell the client that it waits for a frame in vain."""
        self._replies.refuse(sequence, (b"", 0), _not_kept(sequence))

    def flush(self, session: Session, *, now: bool = False) -> None:
        """Give the log the frames that have come.

        While it has enough to do, what comes is gathered, and kept together; not so with ``now``.
        """
        if self._waiting and (now or self._keeping < GIVEN_AT_ONCE):
            arrivals, self._waiting = self._waiting, []
            self._keeping += 1
            self._processing.note_kept()
            self._start(session, self._keep(session, arrivals))

    async def take_refine(
        self, session: Session, message: ingest_pb2.Refine, serialised: bytes
    ) -> None:
        """Check a refinement, and let the log have it, if it follows on what it has."""
        state = message.layers[-1].state if message.layers else 0
        version = (_short(message.bundle_short_id), state)
        try:
            refine = await _checked(
                lambda: parse_refine(message, self._picture_limits), len(serialised)
            )
        except FeatherwireError as error:
            self._replies.reject(message.sequence, version, error)
            return
        self.flush(session, now=True)  # it may be of one of these
        session.in_flight += 1
        self._start(session, self._refine(session, refine, serialised, version))

    # -- frames, from here on --------------------------------------------------------------------

    async def _keep(self, session: Session, arrivals: Sequence[Arrival]) -> None:
        """Make frames durable, then acknowledge each, with its result where there is one."""
        try:
            try:
                all_accepted = await self._log.accept(session.key, [one.frame for one in arrivals])
            finally:
                self._keeping -= 1
                self.flush(session)
        except StorageError as error:
            for arrival in arrivals:
                arrival.logging.end()
                self._leave(arrival)
            self._replies.not_logged(session, [one.frame.sequence for one in arrivals], error)
            return
        records: list[Record] = []
        for arrival, accepted in zip(arrivals, all_accepted, strict=True):
            arrival.logging.end()
            frame = arrival.frame
            submission: Submission | None = accepted.submission
            if accepted.new:
                assert submission is not None, "what is new is in the log"
                self._replies.acknowledge(submission)
                if accepted.record is not None:
                    records.append(accepted.record)
                    submission = None
            else:
                arrival.span.set_attribute("featherwire.duplicate", True)
                self._processing.recorded(session, records)
                records = []
                submission = self._replies.repeat(session, frame.sequence, frame.version, accepted)
            if submission is None:
                self._leave(arrival)
            else:
                work = self._analyse(session, arrival, submission, new=accepted.new)
                self._start(session, work)
        self._processing.recorded(session, records)

    async def _analyse(
        self, session: Session, arrival: Arrival, submission: Submission, *, new: bool
    ) -> None:
        try:
            with use_span(arrival.span):
                if new:
                    await self._processing.run(session, submission, arrival.engine_frame)
                else:
                    await self._processing.take_up(session, submission)
        finally:
            self._leave(arrival)

    def _leave(self, arrival: Arrival) -> None:
        arrival.span.end()
        self.pixels -= arrival.pixels
        self.bytes -= arrival.size

    # -- refinements, from here on ---------------------------------------------------------------

    async def _refine(
        self, session: Session, refine: Refine, serialised: bytes, version: Version
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
                session.key, refine.sequence, version, serialised, check
            )
        except StorageError as error:
            self._replies.not_logged(session, [refine.sequence], error)
            return
        except FeatherwireError as error:
            session.in_flight -= 1
            self._replies.reject(refine.sequence, version, error)
            return
        if not accepted.new:
            left = self._replies.repeat(session, refine.sequence, version, accepted)
            if left is not None:
                await self._processing.take_up(session, left)
            return
        submission = accepted.submission
        assert submission is not None, "what is new is in the log"
        self._replies.acknowledge(submission)
        frame = self._processing.engine_frame(accepted.value, refine)
        self.pixels += frame.pixels
        self._stream.count_pixels(frame.pixels)
        try:
            await self._processing.run(session, submission, frame)
        finally:
            self.pixels -= frame.pixels

    # -- parts -----------------------------------------------------------------------------------

    def _start(self, session: Session, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)

        def left(done: asyncio.Task[None]) -> None:
            self._tasks.discard(done)
            self._sessions.let_go(session)
            if not done.cancelled() and done.exception() is not None:
                structlog.get_logger().error("frame_lost", exc_info=done.exception())
            self._stream.changed()

        task.add_done_callback(left)


@dataclass(slots=True)
class Arrival:
    """A frame that was checked; ``span`` lasts while it is here, ``logging`` until it is kept."""

    frame: NewFrame
    engine_frame: EngineFrame
    span: Span = INVALID_SPAN
    logging: Span = INVALID_SPAN

    @property
    def pixels(self) -> int:
        """Pixels of the picture; 0 for a frame that is only kept."""
        return 0 if self.engine_frame.asks_nothing else self.engine_frame.pixels

    @property
    def size(self) -> int:
        """Bytes of the message."""
        return len(self.frame.message)

    def begin(self, key: SessionKey, traceparent: str) -> None:
        """Open the frame's tracing spans."""
        device, session = key
        self.span = frame_span(
            "frame", SpanKind.SERVER, traceparent, device=device, session=session,
            sequence=self.frame.sequence,
        )  # fmt: skip
        self.logging = tracer().start_span("log", context=set_span_in_context(self.span))


class Replies:
    """Messages to the client about each frame, and their counts in the metrics."""

    def __init__(self, stream: DeviceStream, sessions: SessionRegistry, metrics: Metrics) -> None:
        self._stream = stream
        self._sessions = sessions
        self._new = metrics.acknowledged.labels("new")
        self._again = metrics.acknowledged.labels("again")
        self._refused = metrics.refused

    def acknowledge(self, submission: Submission) -> None:
        """Acknowledge a frame that is new, and durable now."""
        self._new.inc()
        self._acknowledge(submission.sequence, submission.version, duplicate=False)

    def repeat(
        self, session: Session, sequence: int, version: Version, accepted: Accepted
    ) -> Submission | None:
        """Acknowledge a frame that was accepted before, and repeat its result if it has one.

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
            self._stream.settle()
            return None
        session.in_flight -= 1
        if accepted.record is not None:
            result = self._sessions.result(accepted.record)
            self._stream.send(ingest_pb2.ConnectResponse(result=result))
            self._stream.settle()
            return None
        self.reject(sequence, version, _not_kept(sequence))
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

    def _acknowledge(self, sequence: int, version: Version, *, duplicate: bool) -> None:
        response = ingest_pb2.ConnectResponse()
        ack = response.ack
        ack.sequence, ack.duplicate = sequence, duplicate
        ack.bundle_short_id, ack.state = version
        self._stream.send(response)


def _not_kept(sequence: int) -> SessionError:
    return SessionError(
        "result_not_kept",
        f"frame {sequence} was processed before, and its result is no longer kept",
    )


async def _checked(parse: Callable[[], Parsed], message_bytes: int) -> Parsed:
    """Run ``parse`` here when it is quick, in a thread when it is not."""
    if message_bytes <= INLINE_BYTES:
        return parse()
    return await asyncio.to_thread(parse)


def _version_of(message: ingest_pb2.Frame) -> Version:
    """What the device awaits a result of, as far as the message says it."""
    if not message.features:
        return b"", 0
    first = message.features[0]
    try:
        return _short(first.bundle_short_id), header_of(first).state
    except BitstreamError:
        return _short(first.bundle_short_id), 0


def _short(bundle_id: bytes) -> bytes:
    """The part of an id that goes back to a client, which may have sent any length."""
    return bundle_id[:BUNDLE_ID_BYTES]
