"""One Connect stream: a reader that admits frames, a writer that is never ahead of its client.

    opening ──Hello──> running ──Bye, half-close──> finishing ──last result sent──> closed
                          │                             ▲
                          └────────── drain ────────────┘

The reader stops reading while too many replies wait, or too many pixels or bytes are in flight: the
client then meets its credits, or TCP. Results are bounded by the credits, so nothing queues without
bound.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import AsyncIterator, Sequence

import structlog
from google.protobuf.message import DecodeError

from cloud_server.auth.access import Caller
from cloud_server.fleet.commands import IssuedCommand
from cloud_server.fleet.fleet import DeviceConnection
from cloud_server.ingest.credits import Credits
from cloud_server.ingest.intake import Intake
from cloud_server.ingest.messages import Messages
from cloud_server.ingest.opening import Shared, from_log, hello_of
from cloud_server.ingest.outbox import Outbox, Write
from cloud_server.ingest.sessions import Session
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.wire import error_to_message

REPEATED_AT_ONCE = 16
"""Results that are read from the log at a time, for a client that did not get them."""


class State(enum.Enum):
    """Where a stream is in its life."""

    RUNNING = enum.auto()
    FINISHING = enum.auto()


class Stream:
    """Serves one client. ``run`` returns when the stream is to be closed in good order."""

    def __init__(self, shared: Shared, caller: Caller) -> None:
        self._shared = shared
        self._limits = shared.limits
        self._caller = caller
        self._session: Session | None = None
        self._link: DeviceConnection | None = None
        self._messages: Messages | None = None
        # Short ids of the bundles in which the client can describe a frame.
        self._of_client: frozenset[bytes] = frozenset()
        self._state = State.RUNNING
        self._credits = Credits(shared.limits, shared.processing.metrics, self._send_credits)
        self._outbox = Outbox()
        # Set whenever something changed that the reader or the writer may wait for.
        self._changed = asyncio.Event()
        self._failure: FeatherwireError | None = None
        self._log = structlog.get_logger()
        self._intake = Intake(
            self,
            processing=shared.processing,
            log=shared.log,
            sessions=shared.sessions,
            bundles=shared.bundles,
            picture_limits=shared.picture_limits,
        )

    @property
    def credits(self) -> int:
        """Frames that the client may send now."""
        return self._credits.available

    # -- for the session and the server ----------------------------------------------------------

    def deliver(self, result: ingest_pb2.Result, command: fleet_pb2.Command | None) -> None:
        """A frame of this session is done (this stream's, or one of the stream before).

        The command comes first, so that a client that has the result knows whether to wait for
        another one. It is not given to a client that lacks the bundle, or has said Bye.
        """
        running = self._state is State.RUNNING
        if running and command and command.refine_frame.bundle_short_id in self._of_client:
            self._require_messages().commanded(command.command_id)
            self.send(ingest_pb2.ConnectResponse(command=command))
        if self._link is not None and result.outcome.HasField("error"):
            self._link.failed(result.outcome.error)
        self.send(ingest_pb2.ConnectResponse(result=result))

    def settle(self) -> None:
        """A frame of this session is done: its credit comes back, behind its result."""
        self._credits.grant(1)

    def settle_kept(self, results: Sequence[ingest_pb2.Result], frames: int) -> None:
        """Frames of this session were only kept, so that their results are here at once."""
        for result in results:
            self._outbox.put(ingest_pb2.ConnectResponse(result=result))
        self._changed.set()
        self._credits.earn(frames)

    def supersede(self) -> None:
        """Another stream has said Hello for this session."""
        self.fail(SessionError("superseded", "another stream has taken over this session"))

    def give(self, order: IssuedCommand) -> None:
        """Give the client a command of an operator."""
        if self._state is State.RUNNING:
            self.send(ingest_pb2.ConnectResponse(command=order.command))

    def drain(self, deadline_s: float) -> None:
        """Tell the client to send no more; finish what is in flight, then close."""
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

    # -- for the intake --------------------------------------------------------------------------

    def send(self, message: ingest_pb2.ConnectResponse) -> None:
        """Queue one message."""
        self._outbox.put(message)
        self._changed.set()

    def count_pixels(self, pixels: int) -> None:
        """A picture of so many pixels is about to be made, or analysed."""
        assert self._link is not None, "frames are taken after Hello only"
        self._link.entry.meter.count(pixels=pixels)

    def changed(self) -> None:
        """A frame has left: the reader and the writer look again."""
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
            self._credits.close()
            if self._link is not None:
                self._link.close()
            if self._session is not None:
                self._shared.sessions.detach(self._session, self)

    async def _read(self, requests: AsyncIterator[ingest_pb2.ConnectRequest]) -> None:
        try:
            async with asyncio.timeout(self._limits.hello_timeout_s):
                first = await anext(requests)
            await self._open(first)
            async for message in requests:
                await self._take(message.batch.requests or (message,))
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

    async def _write(self, write: Write) -> None:
        while True:
            while self._outbox:
                await self._outbox.write(write)
                self._changed.set()
            if self._state is State.FINISHING and (self._failure or self._intake.idle):
                return
            await self._wait()

    # -- messages --------------------------------------------------------------------------------

    async def _open(self, request: ingest_pb2.ConnectRequest) -> None:
        shared = self._shared
        hello = hello_of(request, self._caller)
        self._of_client = shared.bundles.agree(hello)
        self._outbox.takes_batches = hello.takes_batches
        session = shared.sessions.attach((hello.device, hello.session), self)
        self._session = session
        self._log = self._log.bind(device=hello.device, session=hello.session)
        resume_after, last_result_id = await from_log(
            shared.log.resume_after(session.key, hello.last_result_seen), self._log
        )
        await from_log(shared.processing.adopt(session.key), self._log)
        if session.owner is not self:
            return  # superseded meanwhile
        self._log.info(
            "hello",
            client_version=hello.client_version,
            in_flight=session.in_flight,
            resume_after=resume_after,
        )
        bundle_id = hello.bundle_id if hello.bundle_id in shared.bundles.ids else None
        link = shared.fleet.join(hello, bundle_id or shared.bundles.wanted.id, self.give)
        self._link = link
        self._messages = Messages(
            session, link, self._intake, self._credits,
            send=self.send, finish=self._finish, logger=self._log,
        )  # fmt: skip
        policy = await from_log(link.rate_policy(), self._log)
        if session.owner is not self:
            return  # superseded meanwhile
        credits = self._credits.open(session, link.entry.meter)
        welcome = shared.welcome(resume_after, credits, policy)
        self.send(ingest_pb2.ConnectResponse(welcome=welcome))
        await self._repeat_results(session, min(hello.last_result_seen, last_result_id))
        if self._state is State.RUNNING:
            await from_log(link.give_pending(), self._log)

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
            session.outlet = self
            self._credits.grant(self._limits.credits)  # those of frames that were done meanwhile

    async def _take(self, requests: Sequence[ingest_pb2.ConnectRequest]) -> None:
        """Take messages that came together, up to the one after which the stream takes no more.

        What is left then was not acknowledged, so the client knows that it must send it elsewhere.
        """
        messages = self._require_messages()
        try:
            for request in requests:
                while self._is_full() and self._state is State.RUNNING:
                    messages.flush()
                    await self._wait()
                if self._state is not State.RUNNING:
                    return
                await messages.take(request)
        finally:
            messages.flush()

    # -- credits and queues ----------------------------------------------------------------------

    def _send_credits(self, credits: int) -> None:
        self.send(ingest_pb2.ConnectResponse(credit=ingest_pb2.Credit(credits=credits)))

    def _is_full(self) -> bool:
        """Whether the reader must wait for the writer, or for what is in flight."""
        return (
            len(self._outbox) > 4 * self._credits.most + 16
            or self._intake.pixels > self._limits.max_pixels_in_flight
            or self._intake.bytes > self._limits.max_bytes_in_flight
        )

    async def _wait(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    def _finish(self) -> None:
        self._state = State.FINISHING
        self._credits.close()
        self._changed.set()

    def _require_messages(self) -> Messages:
        assert self._messages is not None, "messages are taken after Hello only"
        return self._messages
