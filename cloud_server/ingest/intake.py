"""What a stream does with frames: checked, remembered, analysed, answered once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import structlog

from cloud_server.engine import Engine, EngineFrame, EngineOutcome
from cloud_server.ingest.refinement import RefinePolicy, refined
from cloud_server.ingest.served import ServedBundles
from cloud_server.ingest.sessions import Session, SessionRegistry, Version
from shared.bitstream import Bitstream
from shared.bitstream.container import BUNDLE_ID_BYTES
from shared.errors import FeatherwireError, SessionError
from shared.limits import Limits
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import FrameOutcome
from shared.wire.deadlines import DEADLINE_PER_MEGAPIXEL_S, frame_deadline
from shared.wire.requests import parse_frame, parse_refine
from shared.wire.results import outcome_to_message

Parsed = TypeVar("Parsed")

INLINE_BYTES = 256 * 2**10
"""Frames up to this size are checked on the event loop (0.1 ms); larger ones in a thread."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of one stream; times in seconds."""

    credits: int = 8
    max_pixels_in_flight: int = 128 * 2**20
    hello_timeout_s: float = 10.0
    frame_deadline_s: float = 30.0
    deadline_per_megapixel_s: float = DEADLINE_PER_MEGAPIXEL_S
    write_timeout_s: float = 30.0

    def deadline_of(self, bitstream: Bitstream) -> float:
        """Seconds for a frame; larger pictures have longer."""
        return frame_deadline(
            self.frame_deadline_s,
            bitstream.width,
            bitstream.height,
            self.deadline_per_megapixel_s,
        )


class Replies(Protocol):
    """What frames need of their stream."""

    def send(self, **message: Any) -> None:
        """Queue one message, by its field of ConnectResponse."""

    def grant(self) -> None:
        """Return one credit, behind the result that it belongs to."""

    def changed(self) -> None:
        """A frame has left."""


class Intake:
    """The frames of one stream. Each has been paid for with a credit when it comes here."""

    def __init__(
        self,
        outlet: Replies,
        *,
        engine: Engine,
        sessions: SessionRegistry,
        bundles: ServedBundles,
        limits: StreamLimits,
        picture_limits: Limits,
        refine_policy: RefinePolicy | None = None,
    ) -> None:
        self._outlet = outlet
        self._engine = engine
        self._sessions = sessions
        self._bundles = bundles
        self._limits = limits
        self._picture_limits = picture_limits
        self._refine_policy = refine_policy
        self.in_flight: set[asyncio.Task[None]] = set()
        """Frames that are being analysed."""
        self.pixels = 0
        """Of all their pictures."""

    async def take_frame(self, session: Session, message: ingest_pb2.Frame) -> None:
        if not 1 <= message.sequence < 2**63:
            parse_frame(message, self._picture_limits)  # says what is wrong
        sequence = message.sequence
        version = (b"", 0)
        if message.features:
            version = (_short(message.features[0].bundle_short_id), message.features[0].state)
        if session.accepted(sequence):
            self._repeat(session, sequence, version)
            return
        try:
            frame = await _checked(
                lambda: parse_frame(message, self._picture_limits), message.ByteSize()
            )
        except FeatherwireError as error:
            # Only this frame is wrong; its sequence stays free, so that it can be sent again.
            self._reject(sequence, version, error)
            return
        self._sessions.keep_frame(session, sequence, frame.bitstreams)
        deadline_s = self._limits.deadline_of(frame.bitstreams[0])
        self._start(
            session,
            sequence,
            version,
            EngineFrame(frame.bitstreams, frame.tasks, frame.picture, deadline_s),
        )

    async def take_refine(self, session: Session, message: ingest_pb2.Refine) -> None:
        sequence = message.sequence
        kept = self._sessions.frame(session, sequence)
        bundle_id = _short(message.bundle_short_id)
        if not bundle_id and kept is not None:
            bundle_id = kept[0].bundle_id
        version = (bundle_id, message.layers[-1].state if message.layers else 0)
        try:
            refine = await _checked(
                lambda: parse_refine(message, self._picture_limits), message.ByteSize()
            )
            if session.knows(sequence, version):
                self._repeat(session, sequence, version)
                return
            if kept is None:
                raise SessionError(
                    "refine_evicted",
                    f"the layers of frame {sequence} are no longer kept; send the frame again as "
                    "a new one",
                )
            merged = refined(kept, refine, self._bundles, self._picture_limits)
        except FeatherwireError as error:
            self._reject(sequence, version, error)
            return
        self._sessions.keep_frame(session, sequence, merged)
        deadline_s = self._limits.deadline_of(merged[0])
        self._start(
            session,
            sequence,
            version,
            EngineFrame(merged, refine.tasks, refine.picture, deadline_s, refined=bundle_id),
        )

    # -- frames ----------------------------------------------------------------------------------

    def _start(self, session: Session, sequence: int, version: Version, frame: EngineFrame) -> None:
        session.accept(sequence, version)
        bundle_id, state = version
        self._outlet.send(
            ack=ingest_pb2.Ack(sequence=sequence, state=state, bundle_short_id=bundle_id)
        )
        self.pixels += frame.pixels
        task = asyncio.create_task(self._process(session, sequence, version, frame))
        self.in_flight.add(task)
        task.add_done_callback(self._processed)

    async def _process(
        self, session: Session, sequence: int, version: Version, frame: EngineFrame
    ) -> None:
        """Analyse and hand the outcome to the session, which may have another stream by then."""
        try:
            outcome = await self._engine.submit(frame)
            if outcome.error is not None:
                _log_of(session).warning(
                    "frame_failed",
                    sequence=sequence,
                    reason=outcome.error.reason,
                    error=outcome.error.message,
                )
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets its result
            _log_of(session).error("frame_crashed", sequence=sequence, exc_info=error)
            outcome = EngineOutcome(
                error=FeatherwireError("internal_error", "the frame could not be processed")
            )
        self.pixels -= frame.pixels
        policy = self._refine_policy
        command = policy.command(sequence, frame, outcome) if policy is not None else None
        result = _result(sequence, version, outcome)
        self._sessions.complete(session, sequence, version, result, command)

    def _processed(self, task: asyncio.Task[None]) -> None:
        self.in_flight.discard(task)
        self._outlet.changed()

    def _repeat(self, session: Session, sequence: int, version: Version) -> None:
        """The frame was accepted before: acknowledge it, and repeat its result if it has one."""
        bundle_id, state = version
        ack = ingest_pb2.Ack(
            sequence=sequence, state=state, duplicate=True, bundle_short_id=bundle_id
        )
        self._outlet.send(ack=ack)
        result_id = session.result_id(sequence, version)
        if result_id is None and session.knows(sequence, version):
            self._outlet.grant()  # in flight: its result is on its way, and brings its own credit
            return
        result = self._sessions.kept_result(session, result_id) if result_id else None
        if result is not None:
            self._outlet.send(result=result)
            self._outlet.grant()
        else:
            self._reject(
                sequence,
                version,
                SessionError(
                    "result_not_kept",
                    f"frame {sequence} was processed before, and its result is no longer kept",
                ),
            )

    def _reject(self, sequence: int, version: Version, error: FeatherwireError) -> None:
        """A result that says why the frame was not taken; it has no number and is not kept."""
        self._outlet.send(result=_result(sequence, version, FrameOutcome(error=error)))
        self._outlet.grant()


async def _checked(parse: Callable[[], Parsed], message_bytes: int) -> Parsed:
    """Run ``parse`` here when it is quick, in a thread when it is not."""
    if message_bytes <= INLINE_BYTES:
        return parse()
    return await asyncio.to_thread(parse)


def _result(sequence: int, version: Version, outcome: FrameOutcome) -> ingest_pb2.Result:
    bundle_id, state = version
    return ingest_pb2.Result(
        sequence=sequence,
        state=state,
        outcome=outcome_to_message(outcome),
        bundle_short_id=bundle_id,
    )


def _short(bundle_id: bytes) -> bytes:
    """What goes back to a client of an id that may be of any length."""
    return bundle_id[:BUNDLE_ID_BYTES]


def _log_of(session: Session) -> Any:
    device, name = session.key
    return structlog.get_logger().bind(device=device, session=name)
