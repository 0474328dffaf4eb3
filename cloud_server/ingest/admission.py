"""The frames of a stream: checked, made durable together, acknowledged, answered once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog
from opentelemetry.trace import INVALID_SPAN, Span, SpanKind, set_span_in_context, use_span

from cloud_server.engine import EngineFrame
from cloud_server.ingest.bundles import ServedBundles
from cloud_server.ingest.processing import Processing
from cloud_server.ingest.references import LONG_GROUP, Values, reference_lost
from cloud_server.ingest.refinement import refined, replayed
from cloud_server.ingest.replies import Replies, result_not_kept
from cloud_server.ingest.sessions import DeviceStream, Session, SessionRegistry
from cloud_server.results.log import ResultLog
from cloud_server.results.records import (
    NewFrame,
    Record,
    SessionKey,
    Submission,
    Version,
    same_picture,
    to_us,
)
from shared.bitstream import Bitstream
from shared.bitstream.container import BUNDLE_ID_BYTES
from shared.errors import BitstreamError, FeatherwireError, SessionError, StorageError
from shared.limits import Limits
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.wire.features import header_of
from shared.wire.requests import Frame, Refine, parse_frame, parse_refine
from shared.wire.tracing import frame_span, tracer, tracing

Parsed = TypeVar("Parsed")

INLINE_BYTES = 256 * 2**10
"""Frames up to this size are checked on the event loop (0.1 ms); larger ones in a thread."""

GIVEN_AT_ONCE = 1
"""Lots of frames that the log has of one stream. Where one is refused the next must not be kept,
nor a refinement: it may be smaller, and fit where that one did not, and leave a gap in the log."""


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
        self._references = processing.references
        self._replies = Replies(stream, sessions, processing.metrics)
        # Bundles of which a key frame was asked for, and has not come.
        self._asked: set[bytes] = set()
        self._waiting: list[Arrival] = []
        self._traced = tracing()
        # How often the log was given frames, and how often it has answered.
        self._given = self._answered = 0
        self._failed: StorageError | None = None
        self._kept = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self.taken: Mapping[int, int] | None = None
        """When pictures were taken of frames that were here before the stream, by sequence; None:
        its device knows nothing of such, and the first frame of a number stands for all."""
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
        version, came_s = _version_of(message), time.monotonic()
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
        captured_us = None if frame.captured_at is None else to_us(frame.captured_at)
        if self.taken and not same_picture(self.taken.get(frame.sequence), captured_us):
            raise _another_frame(frame.sequence)
        values = await self._values(session, frame, version)
        if values is None:
            return
        engine_frame = self._processing.engine_frame(frame.bitstreams, frame, values)
        new = NewFrame(
            frame.sequence,
            version,
            serialised,
            captured_us,
            self._processing.at_once(session.key, frame.sequence, engine_frame),
            values.refers_to,
            values.group if values.refers_to else None,
        )
        arrival = Arrival(new, engine_frame, came_s, values.same_as)
        if self._traced:
            arrival.begin(session.key, message.traceparent)
        session.in_flight += 1
        self.pixels += arrival.pixels
        self.bytes += arrival.size
        self._stream.count_pixels(engine_frame.pixels)
        self._waiting.append(arrival)

    async def _values(self, session: Session, frame: Frame, version: Version) -> Values | None:
        """What the frame's features were decoded to, where they are predicted; None: it is refused.

        What came before it goes to the log meanwhile.
        """
        predicted = _predicted(frame.bitstreams)
        if predicted:
            self.flush(session)
        try:
            values = await self._references.admit(
                session.key,
                frame.sequence,
                frame.bitstreams,
                lambda: self._logged(session),
                followed=session.predicts,
            )
        except StorageError as error:
            session.in_flight += 1
            self._replies.not_logged(session, [frame.sequence], error)
            return None
        except FeatherwireError as error:
            # As with what is damaged: its sequence stays free, for a frame that stands alone.
            self._ask_for_key_frame(session, frame.sequence, predicted)
            self._replies.reject(frame.sequence, version, error)
            return None
        self._asked -= {one.bundle_id for one in frame.bitstreams} - predicted
        if values.length >= LONG_GROUP:
            self._ask_for_key_frame(session, frame.sequence, predicted)
        return values

    def _ask_for_key_frame(self, session: Session, sequence: int, bundle_ids: Set[bytes]) -> None:
        """Once, until one comes: what is on its way already may refer to what is lost, too."""
        if session.predicts and not bundle_ids <= self._asked:
            self._asked |= bundle_ids
            command = fleet_pb2.Command(
                command_id=f"key-{sequence}", key_frame=fleet_pb2.KeyFrame()
            )
            command.issued_at.GetCurrentTime()
            self._stream.ask(command)

    async def _logged(self, session: Session) -> None:
        """Wait until the log has all frames that have come by now, or has refused them."""
        lots = self._given + bool(self._waiting)
        while self._answered < lots:
            self.flush(session)
            self._kept.clear()
            await self._kept.wait()

    def forgotten(self, sequence: int) -> None:
        """Tell the client that it waits for a frame in vain."""
        self._replies.refuse(sequence, (b"", 0), result_not_kept(sequence))

    def flush(self, session: Session) -> None:
        """Give the log the frames that have come.

        While it has enough to do, what comes is gathered, and kept together.
        """
        if self._waiting and self._given - self._answered < GIVEN_AT_ONCE:
            arrivals, self._waiting = self._waiting, []
            self._given += 1
            self._processing.note_kept()
            self._start(session, self._keep(session, arrivals))

    async def take_refine(
        self, session: Session, message: ingest_pb2.Refine, serialised: bytes
    ) -> None:
        """Check a refinement, and let the log have it, if it follows on what it has."""
        state = message.layers[-1].state if message.layers else 0
        version, came_s = (_short(message.bundle_short_id), state), time.monotonic()
        try:
            refine = await _checked(
                lambda: parse_refine(message, self._picture_limits), len(serialised)
            )
        except FeatherwireError as error:
            self._replies.reject(message.sequence, version, error)
            return
        session.in_flight += 1
        self._start(session, self._refine(session, refine, serialised, version, came_s))

    # -- frames, from here on --------------------------------------------------------------------

    async def _keep(self, session: Session, arrivals: Sequence[Arrival]) -> None:
        """Make frames durable, then acknowledge each, with its result where there is one."""
        try:
            try:
                if self._failed is not None:
                    raise self._failed
                all_accepted = await self._log.accept(session.key, [one.frame for one in arrivals])
            except StorageError as error:
                self._failed = error
                raise
            finally:
                self._answered += 1
                self._kept.set()
                self.flush(session)
        except StorageError as error:
            for arrival in arrivals:
                arrival.logging.end()
                self._forget_values(session, arrival)
                self._leave(arrival)
            self._replies.not_logged(session, [one.frame.sequence for one in arrivals], error)
            return
        records: list[Record] = []
        for arrival, accepted in zip(arrivals, all_accepted, strict=True):
            arrival.logging.end()
            frame = arrival.frame
            submission: Submission | None = accepted.submission
            if not (self.taken is None or accepted.new or submission is None) and not same_picture(
                submission.captured_us, frame.captured_us
            ):
                # A stream that this one has taken over brought it meanwhile.
                self._clashed(session, arrival)
                continue
            if accepted.lost:
                self._forget_values(session, arrival)
                self._leave(arrival)
                session.in_flight -= 1
                self._ask_for_key_frame(session, frame.sequence, arrival.predicted)
                gone = reference_lost("it is no longer kept")
                self._replies.reject(frame.sequence, frame.version, gone)
                continue
            if accepted.new:
                assert submission is not None, "what is new is in the log"
                self._replies.acknowledge(submission, arrival.came_s)
                if accepted.record is not None:
                    records.append(accepted.record)
                    submission = None
            else:
                self._forget_values(session, arrival)
                arrival.span.set_attribute("featherwire.duplicate", True)
                self._processing.recorded(session, records)
                records = []
                submission = self._replies.repeat(
                    session, frame.sequence, frame.version, accepted, arrival.came_s
                )
            if submission is None:
                self._leave(arrival)
            else:
                work = self._analyse(session, arrival, submission, new=accepted.new)
                self._start(session, work)
        self._processing.recorded(session, records)

    def _clashed(self, session: Session, arrival: Arrival) -> None:
        """Another picture has a frame's number: keep nothing more of this stream."""
        self._failed = self._failed or StorageError("conflict", "another frame has this number")
        self._forget_values(session, arrival)
        self._leave(arrival)
        session.in_flight -= 1
        self._stream.fail(_another_frame(arrival.frame.sequence))

    async def _analyse(
        self, session: Session, arrival: Arrival, submission: Submission, *, new: bool
    ) -> None:
        try:
            with use_span(arrival.span):
                if new:
                    await self._processing.run(
                        session, submission, arrival.engine_frame, arrival.same_as
                    )
                else:
                    await self._processing.take_up(session, submission)
        finally:
            self._leave(arrival)

    def _forget_values(self, session: Session, arrival: Arrival) -> None:
        """The log does not have what came, or had something of this sequence before."""
        bitstreams = arrival.engine_frame.bitstreams
        self._references.drop(session.key, arrival.frame.sequence, bitstreams)

    def _leave(self, arrival: Arrival) -> None:
        arrival.span.end()
        self.pixels -= arrival.pixels
        self.bytes -= arrival.size

    # -- refinements, from here on ---------------------------------------------------------------

    async def _refine(
        self,
        session: Session,
        refine: Refine,
        serialised: bytes,
        version: Version,
        came_s: float,
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
            await self._logged(session)  # it may be of one of the frames before it
            if self._failed is not None:
                raise self._failed
            if session.predicts:
                await self._check_decodable(session.key, refine)
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
            left = self._replies.repeat(session, refine.sequence, version, accepted, came_s)
            if left is not None:
                await self._processing.take_up(session, left)
            return
        submission = accepted.submission
        assert submission is not None, "what is new is in the log"
        self._replies.acknowledge(submission, came_s)
        frame = await self._processing.logged_frame(session, submission, accepted.value, refine)
        if frame is None:
            return
        self.pixels += frame.pixels
        self._stream.count_pixels(frame.pixels)
        try:
            await self._processing.run(session, submission, frame)
        finally:
            self.pixels -= frame.pixels

    async def _check_decodable(self, key: SessionKey, refine: Refine) -> None:
        """Raise why layers cannot be decoded that are to join a predicted frame.

        What they look at is perhaps not here: the frame may refer to one that came coarser than the
        device had made it. The frame would be lost with them.
        """
        messages = await self._log.frame_messages(key, refine.sequence)
        if not messages:
            return

        def joined() -> tuple[Bitstream, ...]:
            kept, _ = replayed(messages, self._bundles, self._picture_limits)
            after = refined(kept, refine, self._bundles, self._picture_limits)
            return tuple(one for one in after if one not in kept and one.reference is not None)

        try:
            layers = await asyncio.to_thread(joined)
        except FeatherwireError:
            return  # whoever keeps it says so, unless it has been kept already
        if layers:
            await self._references.values(key, refine.sequence, layers, refined=True)

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
    """A frame that was checked; ``span`` lasts while it is here, ``logging`` until it is kept.

    came_s: when, by ``time.monotonic``. same_as: see ``Values``.
    """

    frame: NewFrame
    engine_frame: EngineFrame
    came_s: float
    same_as: int | None = None
    span: Span = INVALID_SPAN
    logging: Span = INVALID_SPAN

    @property
    def pixels(self) -> int:
        """Pixels of the picture; 0 for a frame that is only kept."""
        return 0 if self.engine_frame.asks_nothing else self.engine_frame.pixels

    @property
    def predicted(self) -> frozenset[bytes]:
        """Short ids of the bundles of which the frame needs others."""
        return _predicted(self.engine_frame.bitstreams)

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


def _predicted(bitstreams: Sequence[Bitstream]) -> frozenset[bytes]:
    return frozenset(one.bundle_id for one in bitstreams if one.reference is not None)


def _another_frame(sequence: int) -> SessionError:
    return SessionError(
        "another_frame",
        f"frame {sequence} of this session is of another picture: the device's memory was copied, "
        "or put back; it begins another session",
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
