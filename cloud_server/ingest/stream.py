"""One Connect stream: a reader that admits frames, a writer that is never ahead of its client.

    opening ──Hello──> running ──Bye, half-close──> finishing ──last result sent──> closed
                          │                             ▲
                          └────────── drain ────────────┘

The reader stops reading while too many replies wait, or too many pixels are in flight: the client
then meets its credits, or TCP. Credits also wait while its device is over its quota. Results are
bounded by the credits, so nothing queues without bound.
"""

from __future__ import annotations

import asyncio
import enum
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import structlog
from google.protobuf.message import DecodeError

from cloud_server.auth.caller import Caller
from cloud_server.fleet.fleet import Fleet, Link
from cloud_server.fleet.orders import Order
from cloud_server.ingest.intake import Intake
from cloud_server.ingest.limits import StreamLimits
from cloud_server.ingest.processing import Processing
from cloud_server.ingest.served import ServedBundles
from cloud_server.ingest.sessions import Session, SessionRegistry
from cloud_server.results.log import ResultLog
from shared.errors import FeatherwireError, SessionError, StorageError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.wire import error_from_message, error_to_message
from shared.wire.requests import parse_hello
from shared.wire.transport import BATCH_BYTES, BATCH_MESSAGES

T = TypeVar("T")

REPEATED_AT_ONCE = 16
"""Results that are read from the log at a time, for a client that did not get them."""

OPEN_COMMANDS = 256
"""Commands whose replies are still listened for; the oldest are forgotten."""


LEAST_PAUSE_S = 0.05
"""Between credits of a device that is at its quota."""


class State(enum.Enum):
    """Where a stream is in its life."""

    RUNNING = enum.auto()
    FINISHING = enum.auto()


class Stream:
    """Serves one client. ``run`` returns when the stream is to be closed in good order."""

    def __init__(
        self,
        *,
        processing: Processing,
        log: ResultLog,
        sessions: SessionRegistry,
        bundles: ServedBundles,
        settings: ingest_pb2.ServerSettings,
        server_version: str,
        limits: StreamLimits,
        fleet: Fleet,
        caller: Caller,
        picture_limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self._metrics = processing.metrics
        self._processing = processing
        self._result_log = log
        self._fleet = fleet
        self._caller = caller
        self._link: Link | None = None
        self._releasing: asyncio.TimerHandle | None = None
        self._sessions = sessions
        self._bundles = bundles
        # Short ids of the bundles in which the client can describe a frame.
        self._of_client: frozenset[bytes] = frozenset()
        self._open_commands: deque[str] = deque(maxlen=OPEN_COMMANDS)
        self._settings = settings
        self._server_version = server_version
        self._limits = limits
        self._state = State.RUNNING
        self._session: Session | None = None
        self._credits = 0
        self._outbox: deque[ingest_pb2.ConnectResponse] = deque()
        self._takes_batches = False
        # Set whenever something changed that the reader or the writer may wait for.
        self._changed = asyncio.Event()
        self._writing_since: float | None = None
        self._failure: FeatherwireError | None = None
        self._log = structlog.get_logger()
        self._intake = Intake(
            self,
            processing=processing,
            log=log,
            sessions=sessions,
            bundles=bundles,
            picture_limits=picture_limits,
        )

    @property
    def credits(self) -> int:
        """Frames that the client may send now."""
        return self._credits

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

    def settle(self) -> None:
        """A frame of this session is done: its credit comes back, behind its result."""
        self._grant()

    def supersede(self) -> None:
        """Another stream has said Hello for this session."""
        self.fail(SessionError("superseded", "another stream has taken over this session"))

    def give(self, order: Order) -> None:
        """Give the client a command of an operator."""
        if self._state is State.RUNNING:
            self._send(command=order.command)

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

    # -- for the intake --------------------------------------------------------------------------

    def send(self, **message: Any) -> None:
        """Queue one message, by its field of ConnectResponse."""
        self._send(**message)

    def grant(self) -> None:
        """Return one credit, behind the result that it belongs to."""
        self._grant()

    def count_pixels(self, pixels: int) -> None:
        """A picture of so many pixels is about to be made, or analysed."""
        self._require_link().entry.meter.count(pixels=pixels)

    def changed(self) -> None:
        """A frame has left: the reader and the writer look again."""
        self._changed.set()

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
            if self._releasing is not None:
                self._releasing.cancel()
            if self._link is not None:
                self._link.close()
            if self._session is not None:
                self._sessions.detach(self._session, self)

    async def _read(self, requests: AsyncIterator[ingest_pb2.ConnectRequest]) -> None:
        try:
            async with asyncio.timeout(self._limits.hello_timeout_s):
                first = await anext(requests)
            await self._open(first)
            async for message in requests:
                for request in message.batch.requests or (message,):
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
        except DecodeError:
            self.fail(SessionError("invalid_message", "what came is no message of this protocol"))
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
                response = self._next()
                self._writing_since = time.monotonic()
                await write(response)
                self._writing_since = None
                self._changed.set()
            if self._state is State.FINISHING and (self._failure or not self._intake.in_flight):
                return
            await self._wait()

    def _next(self) -> ingest_pb2.ConnectResponse:
        """What is to be written now: all that is ready, where the client takes it together."""
        first = self._outbox.popleft()
        size = first.ByteSize()
        if not (self._takes_batches and self._outbox) or size > BATCH_BYTES:
            return first
        batch = [first]
        while self._outbox and len(batch) < BATCH_MESSAGES:
            size += self._outbox[0].ByteSize()
            if size > BATCH_BYTES:
                break
            batch.append(self._outbox.popleft())
        if len(batch) == 1:
            return first
        return ingest_pb2.ConnectResponse(batch=ingest_pb2.ResponseBatch(responses=batch))

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

    async def _open(self, request: ingest_pb2.ConnectRequest) -> None:
        if request.WhichOneof("message") != "hello":
            raise SessionError("no_hello", "the first message of a stream must be Hello")
        hello = parse_hello(request.hello)
        self._caller.check_device(hello.device)
        hello = replace(hello, labels={**hello.labels, **self._caller.labels})
        self._of_client = self._bundles.agree(hello)
        self._takes_batches = hello.takes_batches
        session = self._sessions.attach((hello.device, hello.session), self)
        self._session = session
        self._log = self._log.bind(device=hello.device, session=hello.session)
        resume_after, last_result_id = await self._from_log(
            self._result_log.resume_after(session.key, hello.last_result_seen)
        )
        await self._from_log(self._processing.adopt(session.key))
        if session.owner is not self:
            return  # superseded meanwhile
        self._log.info(
            "hello",
            client_version=hello.client_version,
            in_flight=session.in_flight,
            resume_after=resume_after,
        )
        bundle_id = hello.bundle_id if hello.bundle_id in self._bundles.ids else None
        self._link = self._fleet.join(hello, bundle_id or self._bundles.wanted.id, self)
        self._credits = max(0, self._limits.credits - session.in_flight)
        if self._link.entry.meter.delay_s() > 0:
            self._credits = 0
            self._withhold()
        self._send(
            welcome=ingest_pb2.Welcome(
                protocol_version=request.hello.protocol_version,
                resume_after_sequence=resume_after,
                credits=self._credits,
                bundle_id=self._bundles.wanted.id,
                accepted_bundle_ids=self._bundles.ids,
                settings=self._settings_of(self._link.entry.described),
                server_version=self._server_version,
                takes_batches=True,
            )
        )
        await self._repeat_results(session, min(hello.last_result_seen, last_result_id))
        if self._state is State.RUNNING:
            await self._from_log(self._link.give_pending())

    async def _repeat_results(self, session: Session, seen: int) -> None:
        """Send the results that the client has not seen, then let new ones come."""
        while session.owner is self:
            records = await self._from_log(
                self._result_log.results_after(session.key, seen, REPEATED_AT_ONCE)
            )
            for record in records:
                self._send(result=self._sessions.result(record))
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
            session.outlet = self
            self._grant(self._limits.credits)  # those of frames that were done meanwhile

    async def _from_log(self, reading: Awaitable[T]) -> T:
        try:
            return await reading
        except StorageError as error:
            self._log.error("log_unavailable", reason=error.reason, error=error.message)
            raise SessionError(
                "log_unavailable", "the server cannot read its log now; try again later"
            ) from None

    async def _take(self, request: ingest_pb2.ConnectRequest) -> None:
        match request.WhichOneof("message"):
            case "frame":
                self._spend()
                features = request.frame.features
                state = features[0].state if features else None
                self._require_link().frame(message_bytes=request.ByteSize(), state=state)
                await self._intake.take_frame(self._require_session(), request.frame)
            case "refine":
                self._spend()
                self._require_link().frame(message_bytes=request.ByteSize())
                await self._intake.take_refine(self._require_session(), request.refine)
            case "heartbeat":
                if not request.heartbeat.reply:
                    beat = ingest_pb2.Heartbeat(nonce=request.heartbeat.nonce, reply=True)
                    self._send(heartbeat=beat)
            case "bye":
                self._finish()
            case "command_reply":
                await self._take_reply(request.command_reply)
            case "status":
                self._require_link().status(request.status)
            case "result_credit":
                pass  # this server limits results by the frames' credits
            case "hello":
                raise SessionError("invalid_message", "Hello may only open a stream")
            case _:
                raise SessionError("invalid_message", "a message of no known kind")

    async def _take_reply(self, reply: fleet_pb2.CommandReply) -> None:
        if reply.command_id not in self._open_commands:
            await self._from_log(self._require_link().replied(reply))
            return
        self._open_commands.remove(reply.command_id)
        if reply.HasField("error"):
            error = error_from_message(reply.error)
            self._log.info("command_refused", command=reply.command_id, reason=error.reason)

    def _settings_of(self, device: fleet_pb2.Device) -> ingest_pb2.ServerSettings:
        """The server's, with the policy that an operator has given the device."""
        if not device.HasField("rate_policy"):
            return self._settings
        settings = ingest_pb2.ServerSettings()
        settings.CopyFrom(self._settings)
        settings.rate_policy.CopyFrom(device.rate_policy)
        return settings

    # -- credits and queues ----------------------------------------------------------------------

    def _spend(self) -> None:
        if self._credits <= 0:
            raise SessionError(
                "credits_exceeded", "more frames were sent than there was credit for"
            )
        self._credits -= 1

    def _grant(self, credits: int = 1) -> None:
        """Return credits, but for more frames than may be in flight, or than the quota has room."""
        session = self._require_session()
        credits = min(credits, self._limits.credits - self._credits - session.in_flight)
        if credits <= 0:
            return
        if self._releasing is not None or self._require_link().entry.meter.delay_s() > 0:
            self._withhold()
            return
        self._credits += credits
        self._send(credit=ingest_pb2.Credit(credits=credits))

    def _withhold(self) -> None:
        """Grant nothing until the device's quota has room again."""
        if self._releasing is None:
            meter = self._require_link().entry.meter
            meter.withheld += 1
            self._metrics.withheld.inc()
            delay_s = max(meter.delay_s(), LEAST_PAUSE_S)
            self._releasing = asyncio.get_running_loop().call_later(delay_s, self._release)

    def _release(self) -> None:
        """Grant one credit, and the next one after another look at the quota."""
        self._releasing = None
        if self._state is not State.RUNNING:
            return
        self._grant(1)
        session = self._require_session()
        if self._limits.credits > self._credits + session.in_flight:
            self._withhold()

    def _send(self, **message: Any) -> None:
        self._outbox.append(ingest_pb2.ConnectResponse(**message))
        self._changed.set()

    def _is_full(self) -> bool:
        """Whether the reader must wait for the writer, or for pixels in flight."""
        return (
            len(self._outbox) > 4 * self._limits.credits + 16
            or self._intake.pixels > self._limits.max_pixels_in_flight
        )

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _finish(self) -> None:
        self._state = State.FINISHING
        self._changed.set()

    def _require_link(self) -> Link:
        assert self._link is not None, "messages are taken after Hello only"
        return self._link

    def _require_session(self) -> Session:
        assert self._session is not None, "messages are taken after Hello only"
        return self._session
