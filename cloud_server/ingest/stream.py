"""One Connect stream: a reader that admits frames, a writer that is never ahead of its client.

    opening ──Hello──> running ──Bye, half-close──> finishing ──last result sent──> closed
                          │                             ▲
                          └────────── drain ────────────┘

The reader stops reading while too many replies wait, or too many pixels or bytes are in flight: the
client then meets its credits, or TCP. Results are bounded by the credits, so nothing queues without
bound.

Nothing here knows gRPC: requests are any async iterator, responses go to any coroutine function.
"""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import structlog
from google.protobuf.message import DecodeError

from cloud_server.auth.access import Caller
from cloud_server.fleet.commands import IssuedCommand
from cloud_server.fleet.fleet import DeviceConnection, Fleet
from cloud_server.ingest.admission import Admission
from cloud_server.ingest.bundles import ServedBundles
from cloud_server.ingest.flow import Credits, Outbox, Share, StreamLimits, Write
from cloud_server.ingest.processing import Processing
from cloud_server.ingest.sessions import Session, SessionRegistry
from cloud_server.results.log import ResultLog
from shared.bitstream import FORMAT_VERSIONS
from shared.errors import BitstreamError, FeatherwireError, SessionError, StorageError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2, types_pb2
from shared.wire import PROTOCOL_VERSION, error_from_message, error_to_message
from shared.wire.features import file_bytes, header_of
from shared.wire.formats import from_index, short_ids
from shared.wire.requests import Hello, parse_hello

REPEATED_AT_ONCE = 16
"""Results that are read from the log at a time, for a client that did not get them."""

OPEN_COMMANDS = 256
"""Commands of the server's own whose replies are still expected; the oldest are forgotten."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call:
    """The call that carries a stream: who makes it, and from where; gRPC's, or one in memory."""

    caller: Caller = field(default_factory=Caller)
    peer: str = "memory"
    """The client's address, for logs."""


@dataclass(frozen=True, slots=True)
class Shared:
    """What all streams of a server have in common."""

    processing: Processing
    log: ResultLog
    sessions: SessionRegistry
    bundles: ServedBundles
    settings: ingest_pb2.ServerSettings
    server_version: str
    limits: StreamLimits
    fleet: Fleet
    picture_limits: Limits = DEFAULT_LIMITS
    share: Share = lambda credits: credits

    def welcome(
        self,
        resume_after: int,
        credits: int,
        policy: fleet_pb2.RatePolicy | None,
        *,
        needs_key_frame: bool,
        captured_us: int | None,
    ) -> ingest_pb2.Welcome:
        """The answer to Hello, with the rate policy that an operator has given the device.

        captured_us: when the picture of the frame ``resume_after`` was taken.
        """
        settings = self.settings
        if policy is not None:
            settings = ingest_pb2.ServerSettings()
            settings.CopyFrom(self.settings)
            settings.rate_policy.CopyFrom(policy)
        welcome = ingest_pb2.Welcome(
            protocol_version=PROTOCOL_VERSION,
            resume_after_sequence=resume_after,
            credits=credits,
            bundle_id=self.bundles.wanted.id,
            accepted_bundle_ids=self.bundles.ids,
            settings=settings,
            server_version=self.server_version,
            takes_batches=True,
            format_versions=FORMAT_VERSIONS,
            takes_predicted=True,
            needs_key_frame=needs_key_frame,
        )
        if captured_us is not None:
            welcome.resume_captured_at.FromMicroseconds(captured_us)
        return welcome


class State(enum.Enum):
    """Where a stream is in its life."""

    RUNNING = enum.auto()
    FINISHING = enum.auto()


class Stream:
    """Serves one client. ``run`` returns when the stream is to be closed in good order."""

    def __init__(self, shared: Shared, call: Call) -> None:
        self._shared = shared
        self._limits = shared.limits
        self._caller = call.caller
        self._session: Session | None = None
        self._connection: DeviceConnection | None = None
        # Short ids of the bundles in which the client can encode a frame.
        self._of_client: frozenset[bytes] = frozenset()
        # Those of all bundles, in the order in which Welcome lists them.
        self._listed = short_ids(shared.bundles.ids)
        self._state = State.RUNNING
        self._credits = Credits(
            shared.limits, shared.processing.metrics, self._send_credits, shared.share
        )
        self._outbox = Outbox()
        # Set whenever something changed that the reader or the writer may wait for.
        self._changed = asyncio.Event()
        self._failure: FeatherwireError | None = None
        self._log = structlog.get_logger()
        self._admission = Admission(
            self,
            processing=shared.processing,
            log=shared.log,
            sessions=shared.sessions,
            bundles=shared.bundles,
            picture_limits=shared.picture_limits,
        )
        # What the server itself has asked for: replies to that are no operator's.
        self._commands: deque[str] = deque(maxlen=OPEN_COMMANDS)
        # Frames since the last flush, their bytes, and what the last one carried.
        self._frames, self._bytes = 0, 0
        self._features: Sequence[types_pb2.Features] = ()

    @property
    def credits(self) -> int:
        """Frames that the client may send now."""
        return self._credits.available

    # -- for the session, the fleet and the server -----------------------------------------------

    def deliver(self, result: ingest_pb2.Result, command: fleet_pb2.Command | None) -> None:
        """Send the result of a frame of this session (this stream's, or the one's before).

        The command comes first, so that a client that has the result knows whether to wait for
        another one. It is not given to a client that lacks the bundle, or has sent Bye.
        """
        running = self._state is State.RUNNING
        if running and command and command.refine_frame.bundle_short_id in self._of_client:
            self.ask(command)
        if self._connection is not None and result.outcome.HasField("error"):
            self._connection.failed(result.outcome.error)
        self.send(ingest_pb2.ConnectResponse(result=result))

    def ask(self, command: fleet_pb2.Command) -> None:
        """Give the device a command of the server's own."""
        self._commands.append(command.command_id)
        self.send(ingest_pb2.ConnectResponse(command=command))

    def settle(self) -> None:
        """Return the credit of a frame of this session that is done, behind its result.

        A second one goes with it where the server has become less busy.
        """
        self._credits.grant(2)

    def settle_kept(self, results: Sequence[ingest_pb2.Result], frames: int) -> None:
        """Send the results of frames that were only kept, and return the frames' credits."""
        for result in results:
            self._outbox.put(ingest_pb2.ConnectResponse(result=result))
        self._changed.set()
        self._credits.earn(frames)

    def give(self, issued: IssuedCommand) -> None:
        """Send the client a command of an operator."""
        if self._state is State.RUNNING:
            self.send(ingest_pb2.ConnectResponse(command=issued.command))

    def drain(self, deadline_s: float) -> None:
        """Ask the client to send no more; finish what is in flight, then close."""
        if self._state is State.RUNNING:
            drain = ingest_pb2.Drain(deadline_s=deadline_s)
            self.send(ingest_pb2.ConnectResponse(drain=drain))
            self._finish()

    def fail(self, error: FeatherwireError) -> None:
        """Close with an error as the last message."""
        if self._failure is None:
            self._failure = error
            self.send(ingest_pb2.ConnectResponse(error=error_to_message(error)))
            self._finish()

    # -- for the admission -----------------------------------------------------------------------

    def send(self, message: ingest_pb2.ConnectResponse) -> None:
        """Queue one message."""
        self._outbox.put(message)
        self._changed.set()

    def count_pixels(self, pixels: int) -> None:
        """Charge the device's quota for a picture that is about to be made, or analysed."""
        self._require_connection().entry.meter.count(pixels=pixels)

    def changed(self) -> None:
        """Let the reader and the writer look again: a frame has left."""
        self._changed.set()

    # -- running ---------------------------------------------------------------------------------

    async def run(self, requests: AsyncIterator[ingest_pb2.ConnectRequest], write: Write) -> None:
        """Serve until the client is done, fails, or is drained.

        Raises the error that was sent as the last message; ``SessionError("slow_consumer")`` when
        the client reads nothing for too long; and whatever ``write`` raises when the client is
        gone. Frames that were accepted go on.
        """
        reader = asyncio.create_task(self._read(requests))
        watch = asyncio.create_task(self._outbox.watch(self._limits.write_timeout_s))
        telling = asyncio.create_task(self._tell_backlog())
        writer = asyncio.create_task(self._write(write))
        try:
            await asyncio.wait({watch, writer}, return_when=asyncio.FIRST_COMPLETED)
            (writer if writer.done() else watch).result()
            if self._failure is not None:
                raise self._failure
        finally:
            for task in (reader, watch, telling, writer):
                task.cancel()
            await asyncio.gather(reader, watch, telling, writer, return_exceptions=True)
            self._credits.close()
            if self._connection is not None:
                self._connection.close()
            if self._session is not None:
                self._shared.sessions.detach(self._session, self)

    async def _read(self, requests: AsyncIterator[ingest_pb2.ConnectRequest]) -> None:
        try:
            async with asyncio.timeout(self._limits.hello_timeout_s):
                first = await anext(requests)
            session = await self._open(first)
            if session is None:
                return
            async for message in requests:
                await self._take_all(session, message.batch.requests or (message,))
                if self._state is not State.RUNNING:
                    return
        except StopAsyncIteration:
            pass
        except TimeoutError:
            self.fail(SessionError("no_hello", "the client sent no Hello in time"))
        except DecodeError:
            self.fail(SessionError("invalid_message", "a message that cannot be parsed"))
        except FeatherwireError as error:
            if error.reason == "wrong_device":
                self._shared.fleet.refusals.note(self._caller.name, "Connect", error)
            self.fail(error)
        except Exception as error:  # noqa: BLE001  # one client's message must not be silent
            self._log.error("stream_failed", exc_info=error)
            self.fail(
                FeatherwireError("internal_error", "the server failed while it read the stream")
            )
        finally:
            self._finish()

    async def _write(self, write: Write) -> None:
        while True:
            while self._outbox:
                await self._outbox.write(write)
                self._changed.set()
            if self._state is State.FINISHING and (self._failure or self._admission.idle):
                return
            await self._wait()

    async def _tell_backlog(self) -> None:
        """Say now and then that frames are still to be answered, so that nobody gives them up."""
        while True:
            await asyncio.sleep(self._limits.backlog_every_s)
            session = self._session
            if session is not None and session.stream is self and session.in_flight:
                backlog = ingest_pb2.Backlog(frames=session.in_flight)
                self.send(ingest_pb2.ConnectResponse(backlog=backlog))

    # -- Hello and Welcome -----------------------------------------------------------------------

    async def _open(self, request: ingest_pb2.ConnectRequest) -> Session | None:
        """Attach the session, greet the client; None when another stream took it meanwhile."""
        shared = self._shared
        hello = hello_of(request, self._caller)
        self._of_client = shared.bundles.agree(hello)
        self._outbox.takes_batches = hello.takes_batches
        session = shared.sessions.attach((hello.device, hello.session), self)
        self._session = session
        session.predicts = hello.predicts
        self._log = self._log.bind(device=hello.device, session=hello.session)
        resume_after, last_result_id = await from_log(
            shared.log.resume_after(session.key, hello.last_result_seen), self._log
        )
        await from_log(shared.processing.adopt(session.key), self._log)
        if session.owner is not self:
            return None  # superseded meanwhile
        self._log.info(
            "hello",
            client_version=hello.client_version,
            in_flight=session.in_flight,
            resume_after=resume_after,
        )
        bundle_id = hello.bundle_id if hello.bundle_id in shared.bundles.ids else None
        connection = shared.fleet.join(hello, bundle_id or shared.bundles.wanted.id, self.give)
        self._connection = connection
        policy = await from_log(connection.rate_policy(), self._log)
        newest = (
            await from_log(shared.log.newest_kept(session.key), self._log) if hello.predicts else 0
        )
        times = (
            await from_log(shared.log.times_from(session.key, resume_after), self._log)
            if hello.renews
            else {}
        )
        if session.owner is not self:
            return None  # superseded meanwhile
        if hello.renews:
            self._admission.taken = times
        credits = self._credits.open(session, connection.entry.meter)
        welcome = shared.welcome(
            resume_after,
            credits,
            policy,
            needs_key_frame=newest < max(1, resume_after),
            captured_us=times.get(resume_after),
        )
        self.send(ingest_pb2.ConnectResponse(welcome=welcome))
        await self._repeat_results(session, min(hello.last_result_seen, last_result_id))
        await self._answer_awaited(session, hello)
        if self._state is State.RUNNING:
            await from_log(connection.give_pending(), self._log)
        return session

    async def _repeat_results(self, session: Session, seen: int) -> None:
        """Send the results that the client has not seen, then let new ones come."""
        while session.owner is self:
            records = await from_log(
                self._shared.log.results_after(session.key, seen, REPEATED_AT_ONCE), self._log
            )
            for record in records:
                self.send(ingest_pb2.ConnectResponse(result=self._shared.sessions.result(record)))
                seen = record.result_id
            while self._is_full() and self._state is State.RUNNING:
                await self._wait()
            if self._state is not State.RUNNING:
                return
            # On this loop nothing happens between the comparison and what follows it.
            if len(records) < REPEATED_AT_ONCE and session.last_result_id <= seen:
                break
        if session.owner is self:
            session.delivered = seen
            session.stream = self
            self._credits.grant(self._limits.credits)  # those of frames that were done meanwhile

    async def _answer_awaited(self, session: Session, hello: Hello) -> None:
        """Tell the client what has become of frames that it waits for, and would in vain: those
        that are no longer known, and those whose results it should have had."""
        if not hello.awaited:
            return
        known = await from_log(self._shared.log.whereabouts(session.key, hello.awaited), self._log)
        for sequence in hello.awaited:
            if sequence not in known:
                self._admission.forgotten(sequence)
            elif (record := known[sequence]) and record.result_id <= hello.last_result_seen:
                self.send(ingest_pb2.ConnectResponse(result=self._shared.sessions.result(record)))

    # -- messages --------------------------------------------------------------------------------

    async def _take_all(
        self, session: Session, requests: Sequence[ingest_pb2.ConnectRequest]
    ) -> None:
        """Take messages that came together, up to the one after which the stream takes no more.

        What is left then was not acknowledged, so the client knows that it must send it elsewhere.
        """
        try:
            for request in requests:
                while self._is_full() and self._state is State.RUNNING:
                    self._flush(session)
                    await self._wait()
                if self._state is not State.RUNNING:
                    return
                await self._take(session, request)
        finally:
            self._flush(session)

    async def _take(self, session: Session, request: ingest_pb2.ConnectRequest) -> None:
        """Take one message. Raises ``SessionError`` for what ends the stream."""
        match request.WhichOneof("message"):
            case "frame":
                await self._take_frame(session, request.frame)
            case "refine":
                self._credits.spend()
                self._credits.asked()
                serialised = request.refine.SerializeToString()
                self._require_connection().frames(1, message_bytes=len(serialised))
                await self._admission.take_refine(session, request.refine, serialised)
            case "heartbeat":
                if not request.heartbeat.reply:
                    beat = ingest_pb2.Heartbeat(nonce=request.heartbeat.nonce, reply=True)
                    self.send(ingest_pb2.ConnectResponse(heartbeat=beat))
            case "bye":
                self._finish()
            case "command_reply":
                await self._take_reply(request.command_reply)
            case "status":
                self._require_connection().status(request.status)
            case "result_credit":
                pass  # this server limits results by the frames' credits
            case "hello":
                raise SessionError("invalid_message", "Hello may only open a stream")
            case _:
                raise SessionError("invalid_message", "a message of an unknown kind")

    async def _take_frame(self, session: Session, frame: ingest_pb2.Frame) -> None:
        self._credits.spend()
        if frame.tasks or frame.HasField("picture"):
            self._credits.asked()
        self._frames += 1
        self._bytes += frame.ByteSize()
        with suppress(BitstreamError):  # which is refused with the frame
            for features in frame.features:
                from_index(features, self._listed)
        serialised = frame.SerializeToString()
        self._features = frame.features
        await self._admission.take_frame(session, frame, serialised)

    async def _take_reply(self, reply: fleet_pb2.CommandReply) -> None:
        if reply.command_id not in self._commands:
            await from_log(self._require_connection().replied(reply), self._log)
            return
        self._commands.remove(reply.command_id)
        if reply.HasField("error"):
            error = error_from_message(reply.error)
            self._log.info("command_refused", command=reply.command_id, reason=error.reason)

    def _flush(self, session: Session) -> None:
        """Give the log the frames that were taken, and count them for the device."""
        if self._frames:
            state, bits_per_pixel = _described(self._features)
            self._require_connection().frames(
                self._frames,
                message_bytes=self._bytes,
                state=state,
                bits_per_pixel=bits_per_pixel,
            )
            self._frames, self._bytes = 0, 0
            self._admission.flush(session)

    # -- credits and queues ----------------------------------------------------------------------

    def _send_credits(self, credits: int) -> None:
        self.send(ingest_pb2.ConnectResponse(credit=ingest_pb2.Credit(credits=credits)))

    def _is_full(self) -> bool:
        """Whether the reader must wait for the writer, or for what is in flight."""
        return (
            len(self._outbox) > 4 * self._credits.most + 16
            or self._admission.pixels > self._limits.max_pixels_in_flight
            or self._admission.bytes > self._limits.max_bytes_in_flight
        )

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _finish(self) -> None:
        self._state = State.FINISHING
        self._credits.close()
        self._changed.set()

    def _require_connection(self) -> DeviceConnection:
        assert self._connection is not None, "messages are taken after Hello only"
        return self._connection


def hello_of(request: ingest_pb2.ConnectRequest, caller: Caller) -> Hello:
    """Check a stream's first message.

    Raises ``SessionError``: no_hello, what ``parse_hello`` raises, or that the caller is no such
    device.
    """
    if request.WhichOneof("message") != "hello":
        raise SessionError("no_hello", "the first message of a stream must be Hello")
    hello = parse_hello(request.hello)
    caller.check_device(hello.device)
    return replace(hello, labels={**hello.labels, **caller.labels})


async def from_log(reading: Awaitable[T], logger: Any) -> T:
    """Await a read of the log; raises ``SessionError("log_unavailable")``, and logs why."""
    try:
        return await reading
    except StorageError as error:
        logger.error("log_unavailable", reason=error.reason, error=error.message)
        raise SessionError(
            "log_unavailable", "the server cannot read its log now; try again later"
        ) from None


def _described(features: Sequence[types_pb2.Features]) -> tuple[int, float]:
    """A frame's state, and its bits per pixel as files; 0 without features, or of damaged ones."""
    try:
        first = header_of(features[0])
    except (IndexError, BitstreamError):
        return 0, 0.0
    size_bytes, pixels = sum(file_bytes(one) for one in features), first.width * first.height
    return first.state, 8 * size_bytes / pixels if pixels else 0.0
