"""One Connect stream: a reader that admits frames, a writer that is never ahead of its client.

    opening ──Hello──> running ──Bye, half-close──> finishing ──last result sent──> closed
                          │                             ▲
                          └────────── drain ────────────┘

The reader stops reading while too many replies wait, or too many pixels are in flight: the client
then meets its credits, or TCP. Results are bounded by the credits, so nothing queues without bound.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from cloud_server.engine import Engine, EngineFrame, EngineOutcome
from cloud_server.ingest.refinement import RefinePolicy, refined
from cloud_server.ingest.served import ServedBundles
from cloud_server.ingest.sessions import Session, SessionRegistry, Version
from shared.bitstream import Bitstream
from shared.errors import FeatherwireError, SessionError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.wire import FrameOutcome, error_from_message, error_to_message
from shared.wire.deadlines import DEADLINE_PER_MEGAPIXEL_S, frame_deadline
from shared.wire.requests import parse_frame, parse_hello, parse_refine
from shared.wire.results import outcome_to_message

Parsed = TypeVar("Parsed")

INLINE_BYTES = 256 * 2**10
"""Frames up to this size are checked on the event loop (0.1 ms); larger ones in a thread."""

OPEN_COMMANDS = 256
"""Commands whose replies are still listened for; the oldest are forgotten."""


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


class State(enum.Enum):
    """Where a stream is in its life."""

    RUNNING = enum.auto()
    FINISHING = enum.auto()


class Stream:
    """Serves one client. ``run`` returns when the stream is to be closed in good order."""

    def __init__(
        self,
        *,
        engine: Engine,
        sessions: SessionRegistry,
        bundles: ServedBundles,
        settings: ingest_pb2.ServerSettings,
        server_version: str,
        limits: StreamLimits,
        picture_limits: Limits = DEFAULT_LIMITS,
        refine_policy: RefinePolicy | None = None,
    ) -> None:
        self._engine = engine
        self._sessions = sessions
        self._bundles = bundles
        self._refine_policy = refine_policy
        # Short ids of the bundles in which the client can describe a frame.
        self._of_client: frozenset[bytes] = frozenset()
        self._open_commands: deque[str] = deque(maxlen=OPEN_COMMANDS)
        self._settings = settings
        self._server_version = server_version
        self._limits = limits
        self._picture_limits = picture_limits
        self._state = State.RUNNING
        self._session: Session | None = None
        self._credits = 0
        self._in_flight: set[asyncio.Task[None]] = set()
        self._pixels = 0
        self._outbox: deque[ingest_pb2.ConnectResponse] = deque()
        # Set whenever something changed that the reader or the writer may wait for.
        self._changed = asyncio.Event()
        self._writing_since: float | None = None
        self._failure: FeatherwireError | None = None
        self._log = structlog.get_logger()

    # -- for the session and the server ----------------------------------------------------------

    def deliver(self, result: ingest_pb2.Result, command: fleet_pb2.Command | None) -> None:
        """A frame of this session is done (this stream's, or one of the stream before).

        The command comes first, so that a client that has the result knows whether to wait for
        another one. It is not given to a client that lacks the bundle, or has said Bye.
        """
        running = self._state is State.RUNNING
        if running and command and command.refine_frame.bundle_short_id in self._of_client:
            self._open_commands.append(command.command_id)
            self._send(command=command)
        self._send(result=result)
        self._grant()

    def supersede(self) -> None:
        """Another stream has said Hello for this session."""
        self.fail(SessionError("superseded", "another stream has taken over this session"))

    def drain(self, deadline_s: float) -> None:
        """Tell the client to send no more; finish what is in flight, then close."""
        if self._state is State.RUNNING:
            self._send(drain=ingest_pb2.Drain(deadline_s=deadline_s))
            self._finish()

    def fail(self, error: FeatherwireError) -> None:
        """Close with an error as the last message."""
        if self._failure is None:
            self._failure = error
            self._send(error=error_to_message(error))
            self._finish()

    # -- running ---------------------------------------------------------------------------------

    async def run(
        self,
        requests: AsyncIterator[ingest_pb2.ConnectRequest],
        write: Callable[[ingest_pb2.ConnectResponse], Awaitable[None]],
    ) -> None:
        """Serve until the client is done, fails, or is drained.

        Raises the error that was sent as the last message; ``SessionError("slow_consumer")`` when
        the client reads nothing for too long; and whatever ``write`` raises when the client is
        gone. Frames that were accepted go on.
        """
        reader = asyncio.create_task(self._read(requests))
        watch = asyncio.create_task(self._watch_writer())
        writer = asyncio.create_task(self._write(write))
        try:
            await asyncio.wait({watch, writer}, return_when=asyncio.FIRST_COMPLETED)
            (writer if writer.done() else watch).result()
            if self._failure is not None:
                raise self._failure
        finally:
            for task in (reader, watch, writer):
                task.cancel()
            await asyncio.gather(reader, watch, writer, return_exceptions=True)
            if self._session is not None:
                self._sessions.detach(self._session, self)

    async def _read(self, requests: AsyncIterator[ingest_pb2.ConnectRequest]) -> None:
        try:
            async with asyncio.timeout(self._limits.hello_timeout_s):
                first = await anext(requests)
            self._open(first)
            async for request in requests:
                while self._is_full() and self._state is State.RUNNING:
                    await self._wait()
                if self._state is not State.RUNNING:
                    # Not acknowledged, so the client knows that it must send this elsewhere.
                    return
                await self._take(request)
                if self._state is not State.RUNNING:
                    return
        except StopAsyncIteration:
            pass
        except TimeoutError:
            self.fail(SessionError("no_hello", "no Hello came in time"))
        except FeatherwireError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001  # one client's message must not be silent
            self._log.error("stream_failed", exc_info=error)
            self.fail(FeatherwireError("internal_error", "the server could not read on"))
        finally:
            self._finish()

    async def _write(self, write: Callable[[ingest_pb2.ConnectResponse], Awaitable[None]]) -> None:
        while True:
            while self._outbox:
                response = self._outbox.popleft()
                self._writing_since = time.monotonic()
                await write(response)
                self._writing_since = None
                self._changed.set()
            if self._state is State.FINISHING and (self._failure or not self._in_flight):
                return
            await self._wait()

    async def _watch_writer(self) -> None:
        """End a stream whose client takes nothing off it."""
        timeout_s = self._limits.write_timeout_s
        while True:
            await asyncio.sleep(timeout_s / 4)
            since = self._writing_since
            if since is not None and time.monotonic() - since > timeout_s:
                raise SessionError(
                    "slow_consumer", f"nothing was read from the stream for {timeout_s:g} s"
                )

    # -- messages --------------------------------------------------------------------------------

    def _open(self, request: ingest_pb2.ConnectRequest) -> None:
        if request.WhichOneof("message") != "hello":
            raise SessionError("no_hello", "the first message of a stream must be Hello")
        hello = parse_hello(request.hello)
        self._of_client = self._bundles.agree(hello)
        session = self._sessions.attach((hello.device, hello.session), self)
        self._session = session
        self._log = self._log.bind(device=hello.device, session=hello.session)
        self._log.info("hello", client_version=hello.client_version, in_flight=session.in_flight)
        self._credits = max(0, self._limits.credits - session.in_flight)
        self._send(
            welcome=ingest_pb2.Welcome(
                protocol_version=request.hello.protocol_version,
                resume_after_sequence=session.resume_after_sequence,
                credits=self._credits,
                bundle_id=self._bundles.wanted.id,
                accepted_bundle_ids=self._bundles.ids,
                settings=self._settings,
                server_version=self._server_version,
            )
        )
        for result in self._sessions.results_after(session, hello.last_result_seen):
            self._send(result=result)

    async def _take(self, request: ingest_pb2.ConnectRequest) -> None:
        match request.WhichOneof("message"):
            case "frame":
                await self._take_frame(request.frame)
            case "refine":
                await self._take_refine(request.refine)
            case "heartbeat":
                if not request.heartbeat.reply:
                    beat = ingest_pb2.Heartbeat(nonce=request.heartbeat.nonce, reply=True)
                    self._send(heartbeat=beat)
            case "bye":
                self._finish()
            case "command_reply":
                self._take_reply(request.command_reply)
            case "result_credit":
                pass  # this server limits results by the frames' credits
            case "hello":
                raise SessionError("invalid_message", "Hello may only open a stream")
            case _:
                raise SessionError("invalid_message", "a message of no known kind")

    def _take_reply(self, reply: fleet_pb2.CommandReply) -> None:
        if reply.command_id not in self._open_commands:
            return  # forgotten, or never given
        self._open_commands.remove(reply.command_id)
        if reply.HasField("error"):
            error = error_from_message(reply.error)
            self._log.info("command_refused", command=reply.command_id, reason=error.reason)

    async def _take_frame(self, message: ingest_pb2.Frame) -> None:
        self._spend()
        session = self._require_session()
        if not 1 <= message.sequence < 2**63:
            parse_frame(message, self._picture_limits)  # says what is wrong
        sequence = message.sequence
        version = (b"", 0)
        if message.features:
            version = (message.features[0].bundle_short_id, message.features[0].state)
        if session.accepted(sequence):
            self._repeat(sequence, version)
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
            sequence, version, EngineFrame(frame.bitstreams, frame.tasks, frame.picture, deadline_s)
        )

    async def _take_refine(self, message: ingest_pb2.Refine) -> None:
        self._spend()
        session = self._require_session()
        sequence = message.sequence
        kept = self._sessions.frame(session, sequence)
        bundle_id = message.bundle_short_id
        if not bundle_id and kept is not None:
            bundle_id = kept[0].bundle_id
        version = (bundle_id, message.layers[-1].state if message.layers else 0)
        try:
            refine = await _checked(
                lambda: parse_refine(message, self._picture_limits), message.ByteSize()
            )
            if session.knows(sequence, version):
                self._repeat(sequence, version)
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
            sequence,
            version,
            EngineFrame(merged, refine.tasks, refine.picture, deadline_s, refined=bundle_id),
        )

    # -- frames ----------------------------------------------------------------------------------

    def _start(self, sequence: int, version: Version, frame: EngineFrame) -> None:
        session = self._require_session()
        session.accept(sequence, version)
        bundle_id, state = version
        self._send(ack=ingest_pb2.Ack(sequence=sequence, state=state, bundle_short_id=bundle_id))
        self._pixels += frame.pixels
        task = asyncio.create_task(self._process(session, sequence, version, frame))
        self._in_flight.add(task)
        task.add_done_callback(self._processed)

    async def _process(
        self, session: Session, sequence: int, version: Version, frame: EngineFrame
    ) -> None:
        """Analyse and hand the outcome to the session, which may have another stream by then."""
        try:
            outcome = await self._engine.submit(frame)
            if outcome.error is not None:
                self._log.warning(
                    "frame_failed",
                    sequence=sequence,
                    reason=outcome.error.reason,
                    error=outcome.error.message,
                )
        except Exception as error:  # noqa: BLE001  # whatever it is, the client gets its result
            self._log.error("frame_crashed", sequence=sequence, exc_info=error)
            outcome = EngineOutcome(
                error=FeatherwireError("internal_error", "the frame could not be processed")
            )
        self._pixels -= frame.pixels
        policy = self._refine_policy
        command = policy.command(sequence, frame, outcome) if policy is not None else None
        result = _result(sequence, version, outcome)
        self._sessions.complete(session, sequence, version, result, command)

    def _processed(self, task: asyncio.Task[None]) -> None:
        self._in_flight.discard(task)
        self._changed.set()

    def _repeat(self, sequence: int, version: Version) -> None:
        """The frame was accepted before: acknowledge it, and repeat its result if it has one."""
        session = self._require_session()
        bundle_id, state = version
        ack = ingest_pb2.Ack(
            sequence=sequence, state=state, duplicate=True, bundle_short_id=bundle_id
        )
        self._send(ack=ack)
        result_id = session.result_id(sequence, version)
        if result_id is None and session.knows(sequence, version):
            self._grant()  # in flight: its result is on its way, and brings its own credit
            return
        result = self._sessions.kept_result(session, result_id) if result_id else None
        if result is not None:
            self._send(result=result)
            self._grant()
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
        self._send(result=_result(sequence, version, FrameOutcome(error=error)))
        self._grant()

    # -- credits and queues ----------------------------------------------------------------------

    def _spend(self) -> None:
        if self._credits <= 0:
            raise SessionError(
                "credits_exceeded", "more frames were sent than there was credit for"
            )
        self._credits -= 1

    def _grant(self) -> None:
        """Return one credit, behind the result that it belongs to."""
        self._credits += 1
        self._send(credit=ingest_pb2.Credit(credits=1))

    def _send(self, **message: Any) -> None:
        self._outbox.append(ingest_pb2.ConnectResponse(**message))
        self._changed.set()

    def _is_full(self) -> bool:
        """Whether the reader must wait for the writer, or for pixels in flight."""
        return (
            len(self._outbox) > 4 * self._limits.credits + 16
            or self._pixels > self._limits.max_pixels_in_flight
        )

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _finish(self) -> None:
        self._state = State.FINISHING
        self._changed.set()

    def _require_session(self) -> Session:
        assert self._session is not None, "messages are taken after Hello only"
        return self._session


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
