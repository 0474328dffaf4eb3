"""One Connect stream as the client sees it: credits, numbering, and a future for each frame.

Two threads besides the callers': gRPC takes requests from a queue, and a reader hands out what the
server sends. All state is under one condition.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc

from edge_client.session.channel import error_from_call
from shared.bitstream import Bitstream, Layer
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2, ingest_pb2_grpc
from shared.wire import PROTOCOL_VERSION, FrameOutcome, PictureRequest, error_from_message
from shared.wire.failures import error_to_message
from shared.wire.requests import (
    Frame,
    Hello,
    Refine,
    frame_message,
    hello_message,
    refine_message,
)
from shared.wire.results import outcome_from_message

MAX_CREDITS = 4096


@dataclass(frozen=True, slots=True)
class Reply:
    """An outcome as it came: milliseconds since its request was sent, and the frame's numbers."""

    outcome: FrameOutcome
    sequence: int
    state: int
    round_trip_ms: float


@dataclass(frozen=True, slots=True)
class _Pending:
    future: Future[Reply]
    sent_at: float


class Connection:
    """An open stream. ``submit`` and ``refine`` may be called from any thread."""

    def __init__(
        self, channel: grpc.Channel, server: str, hello: Hello, *, timeout_s: float = 10.0
    ) -> None:
        """Say Hello and wait for Welcome. Raises ``SessionError`` when that does not come."""
        self.server = server
        self._changed = threading.Condition()
        self._pending: dict[tuple[int, int], _Pending] = {}
        self._credits = 0
        self._last_sequence = 0
        self._welcome: ingest_pb2.Welcome | None = None
        self._failure: FeatherwireError | None = None
        self._draining = False
        self._closing = False
        self._requests: queue.SimpleQueue[ingest_pb2.ConnectRequest | None] = queue.SimpleQueue()
        self._requests.put(ingest_pb2.ConnectRequest(hello=hello_message(hello)))
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        self._call = stub.Connect(iter(self._requests.get, None))
        self._reader = threading.Thread(target=self._read, name="featherwire-reader", daemon=True)
        self._reader.start()
        try:
            self.welcome = self._wait_for_welcome(timeout_s)
        except BaseException:
            self.close(timeout_s=0)
            raise

    @property
    def credits(self) -> int:
        """Frames that may be sent at once without waiting."""
        return self._credits

    @property
    def failure(self) -> FeatherwireError | None:
        """Why the stream has ended, once it has."""
        return self._failure

    @property
    def draining(self) -> bool:
        """The server takes no more frames and will soon end the stream."""
        return self._draining

    def submit(
        self,
        bitstream: Bitstream,
        *,
        tasks: tuple[str, ...],
        picture: PictureRequest | None,
        deadline_s: float,
    ) -> tuple[int, Future[Reply]]:
        """Send a frame as soon as there is credit; returns its sequence and its reply to come.

        Raises ``SessionError``: deadline_exceeded while waiting for credit, message_too_large,
        draining, or why the stream has ended.
        """

        def build(sequence: int) -> ingest_pb2.ConnectRequest:
            frame = Frame(sequence, bitstream, tasks, picture)
            message = frame_message(frame)
            message.captured_at.GetCurrentTime()
            return ingest_pb2.ConnectRequest(frame=message)

        return self._send(build, None, bitstream.state, deadline_s)

    def refine(
        self,
        sequence: int,
        layers: tuple[Layer, ...],
        *,
        tasks: tuple[str, ...],
        picture: PictureRequest | None,
        deadline_s: float,
    ) -> Future[Reply]:
        """Send finer layers of an earlier frame; raises like ``submit``."""
        message = refine_message(Refine(sequence, layers, tasks, picture))
        request = ingest_pb2.ConnectRequest(refine=message)
        return self._send(lambda _: request, sequence, layers[-1].state, deadline_s)[1]

    def close(self, timeout_s: float = 10.0) -> None:
        """Say Bye, give frames in flight ``timeout_s`` to come back, and end the stream."""
        with self._changed:
            self._closing = True
        self._requests.put(ingest_pb2.ConnectRequest(bye=ingest_pb2.Bye()))
        self._requests.put(None)
        self._reader.join(timeout_s)
        self._call.cancel()
        self._reader.join(5.0)

    # -- sending ---------------------------------------------------------------------------------

    def _send(
        self,
        build: Callable[[int], ingest_pb2.ConnectRequest],
        sequence: int | None,
        state: int,
        deadline_s: float,
    ) -> tuple[int, Future[Reply]]:
        deadline = time.monotonic() + deadline_s
        with self._changed:
            while self._credits == 0 and self._failure is None and not self._draining:
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0:
                    raise SessionError(
                        "deadline_exceeded", f"the server gave no credit within {deadline_s:g} s"
                    )
                self._changed.wait(remaining_s)
            self._raise_unless_open()
            number = sequence if sequence is not None else self._last_sequence + 1
            request = build(number)
            self._check_size(request)
            if sequence is None:
                self._last_sequence = number
            self._credits -= 1
            pending = _Pending(Future(), time.perf_counter())
            self._pending[number, state] = pending
            self._requests.put(request)
        return number, pending.future

    def _raise_unless_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._draining:
            raise SessionError("draining", f"{self.server} is about to stop and takes no frames")
        if self._closing:
            raise SessionError("closed", "this session is closed")

    def _check_size(self, request: ingest_pb2.ConnectRequest) -> None:
        limit = self.welcome.settings.max_message_bytes
        if limit and request.ByteSize() > limit:
            raise SessionError(
                "message_too_large",
                f"the frame takes {request.ByteSize()} bytes, the server takes {limit}; send a "
                "coarser state",
            )

    # -- receiving -------------------------------------------------------------------------------

    def _wait_for_welcome(self, timeout_s: float) -> ingest_pb2.Welcome:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._welcome is None:
                if self._failure is not None:
                    raise self._failure
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0:
                    raise SessionError(
                        "unreachable", f"{self.server} did not say Welcome within {timeout_s:g} s"
                    )
                self._changed.wait(remaining_s)
            return self._welcome

    def _read(self) -> None:
        try:
            for response in self._call:
                self._take(response)
            self._end(self._reason_of_end())
        except grpc.RpcError as error:
            self._end(error_from_call(error, self.server))
        except FeatherwireError as error:
            self._end(error)
            self._call.cancel()
        finally:
            self._requests.put(None)  # lets gRPC's own thread end

    def _reason_of_end(self) -> SessionError:
        if self._draining:
            return SessionError("draining", f"{self.server} has stopped")
        if self._closing:
            return SessionError("closed", "this session is closed")
        return SessionError("connection_lost", f"{self.server} has ended the stream")

    def _end(self, error: FeatherwireError) -> None:
        """The stream is over: everything still awaited fails, once."""
        with self._changed:
            if self._failure is None:
                self._failure = error
            pending = list(self._pending.values())
            self._pending.clear()
            self._changed.notify_all()
        for one in pending:
            _resolve(one.future, self._failure)

    def _take(self, response: ingest_pb2.ConnectResponse) -> None:
        match response.WhichOneof("message"):
            case "result":
                self._take_result(response.result)
            case "credit":
                with self._changed:
                    self._credits += response.credit.credits
                    if self._credits > MAX_CREDITS:
                        raise _protocol_error(f"{self._credits} credits")
                    self._changed.notify_all()
            case "ack":
                pass  # nothing is spooled here yet; the result is what a caller awaits
            case "welcome":
                self._take_welcome(response.welcome)
            case "drain":
                with self._changed:
                    self._draining = True
                    self._changed.notify_all()
            case "error":
                # The status that follows says that the stream is over.
                error = error_from_message(response.error)
                with self._changed:
                    self._failure = self._failure or error
            case "heartbeat":
                if not response.heartbeat.reply:
                    beat = ingest_pb2.Heartbeat(nonce=response.heartbeat.nonce, reply=True)
                    self._requests.put(ingest_pb2.ConnectRequest(heartbeat=beat))
            case "command":
                self._requests.put(_cannot_do(response.command))
            case _:
                pass  # from a newer server; what it adds may be ignored

    def _take_welcome(self, welcome: ingest_pb2.Welcome) -> None:
        if self._welcome is not None:
            raise _protocol_error("a second Welcome")
        if welcome.protocol_version != PROTOCOL_VERSION:
            raise SessionError(
                "unsupported_version",
                f"{self.server} speaks protocol version {welcome.protocol_version}, this client "
                f"{PROTOCOL_VERSION}",
            )
        if welcome.credits > MAX_CREDITS:
            raise _protocol_error(f"{welcome.credits} credits")
        with self._changed:
            self._credits = welcome.credits
            self._last_sequence = welcome.resume_after_sequence
            self._welcome = welcome
            self._changed.notify_all()

    def _take_result(self, result: ingest_pb2.Result) -> None:
        received_at = time.perf_counter()
        with self._changed:
            pending = self._pending.pop((result.sequence, result.state), None)
        if pending is None:
            return  # a repeated result, or one whose caller has given up
        round_trip_ms = (received_at - pending.sent_at) * 1e3
        try:
            outcome = outcome_from_message(result.outcome)
        except FeatherwireError as error:
            _resolve(pending.future, error)
            return
        reply = Reply(outcome, result.sequence, result.state, round_trip_ms)
        _resolve(pending.future, reply)


def _resolve(future: Future[Reply], outcome: Reply | FeatherwireError) -> None:
    with suppress(Exception):  # cancelled in this moment: nobody waits any more
        if isinstance(outcome, Reply):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)


def _cannot_do(command: fleet_pb2.Command) -> ingest_pb2.ConnectRequest:
    error = SessionError("unsupported_command", "this client does not take commands yet")
    reply: Any = fleet_pb2.CommandReply(
        command_id=command.command_id, error=error_to_message(error)
    )
    return ingest_pb2.ConnectRequest(command_reply=reply)


def _protocol_error(what: str) -> SessionError:
    return SessionError("invalid_message", f"the server broke the protocol: {what}")
