"""One Connect stream as the client sees it: credits, numbering, and a future for each frame.

Two threads besides the callers': gRPC takes requests from a queue, and a reader hands out what the
server sends. All state is under one condition.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from concurrent.futures import Future
from dataclasses import replace

import grpc

from edge_client.session.channel import error_from_call
from edge_client.session.kept import KeptFrames, Part, Refinement
from edge_client.session.pending import (
    Commanded,
    Key,
    Parked,
    Pending,
    Reply,
    key_of,
    refine_request,
    resolve,
)
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2, ingest_pb2_grpc
from shared.wire import PROTOCOL_VERSION, PictureRequest, error_from_message
from shared.wire.commands import command_reply, parse_refine_command
from shared.wire.requests import (
    Frame,
    Hello,
    frame_message,
    hello_message,
)
from shared.wire.results import outcome_from_message

MAX_CREDITS = 4096


class Connection:
    """An open stream. ``submit`` and ``refine`` may be called from any thread.

    When the server asks for more layers of a frame, they are sent from what is kept, as soon as
    there is credit, and before any further frame.
    """

    def __init__(
        self,
        channel: grpc.Channel,
        server: str,
        hello: Hello,
        *,
        kept: KeptFrames | None = None,
        timeout_s: float = 10.0,
    ) -> None:
        """Say Hello and wait for Welcome. Raises ``SessionError`` when that does not come."""
        self.server = server
        self._kept = kept if kept is not None else KeptFrames()
        self._changed = threading.Condition()
        self._pending: dict[Key, Pending] = {}
        self._commanded: deque[Commanded] = deque()
        # By sequence: what will come of a command, until the frame's own result has come.
        self._refinements: dict[int, Future[Reply]] = {}
        self._parked: dict[int, Parked] = {}
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
        parts: tuple[Part, ...],
        *,
        tasks: tuple[str, ...],
        picture: PictureRequest | None,
        deadline_s: float,
        later: tuple[tuple[str, ...], PictureRequest | None] | None = None,
        more: bool = False,
    ) -> tuple[int, Future[Reply]]:
        """Send a frame as soon as there is credit; returns its sequence and its reply to come.

        parts: what was sent of these goes out, the rest is kept; the first one is sent. later: the
        tasks and picture of a commanded refinement, when they are not the same. more: further
        parts are being made, and ``finish`` brings them.
        Raises ``SessionError``: deadline_exceeded while waiting for credit, message_too_large,
        draining, or why the stream has ended.
        """
        sent = tuple(part.sent for part in parts if part.sent is not None)
        first = sent[0]
        deadline = time.monotonic() + deadline_s
        with self._changed:
            self._wait_for_credit(deadline, deadline_s)
            sequence = self._last_sequence + 1
            message = frame_message(Frame(sequence, sent, tasks, picture))
            message.captured_at.GetCurrentTime()
            request = ingest_pb2.ConnectRequest(frame=message)
            self._check_size(request)
            self._last_sequence = sequence
            # Before the frame is sent: the server may ask for more at once.
            self._kept.keep(sequence, parts, *(later or (tasks, picture)), more=more)
            pending = Pending(sum(one.file_bytes for one in sent), first.passes)
            self._post(request, (sequence, first.bundle_id, first.state), pending)
        return sequence, pending.future

    def finish(self, sequence: int, parts: tuple[Part, ...]) -> None:
        """Keep further parts of a frame, and send of them what the server has asked for."""
        self._kept.finish(sequence, parts)
        with self._changed:
            asked = self._parked.pop(sequence, None)
        if asked is not None:
            self._answer(asked)

    def refine(self, refinement: Refinement, *, deadline_s: float) -> Future[Reply]:
        """Send finer layers of an earlier frame; raises like ``submit``."""
        request = refine_request(refinement)
        deadline = time.monotonic() + deadline_s
        with self._changed:
            self._wait_for_credit(deadline, deadline_s)
            self._check_size(request)
            pending = Pending(refinement.payload_bytes, refines=True)
            self._post(request, key_of(refinement), pending)
        return pending.future

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

    def _wait_for_credit(self, deadline: float, deadline_s: float) -> None:
        """Return when a message may be sent; commanded refinements go first."""
        while self._credits == 0 and self._failure is None and not self._draining:
            remaining_s = deadline - time.monotonic()
            if remaining_s <= 0:
                raise SessionError(
                    "deadline_exceeded", f"the server gave no credit within {deadline_s:g} s"
                )
            self._changed.wait(remaining_s)
        self._raise_unless_open()

    def _post(self, request: ingest_pb2.ConnectRequest, key: Key, pending: Pending) -> None:
        self._credits -= 1
        self._pending[key] = replace(pending, sent_at=time.perf_counter())
        self._requests.put(request)

    def _send_commanded(self) -> None:
        """Send what the server has asked for, as far as there is credit."""
        while self._commanded and self._credits > 0:
            one = self._commanded.popleft()
            self._post(one.request, key_of(one.refinement), one.pending)
            self._requests.put(command_reply(one.command_id))

    def _raise_unless_open(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._draining:
            raise _draining(self.server)
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
            pending += [one.pending for one in self._commanded]
            self._pending.clear()
            self._commanded.clear()
            self._changed.notify_all()
        for one in pending:
            resolve(one.future, self._failure)

    def _take(self, response: ingest_pb2.ConnectResponse) -> None:
        match response.WhichOneof("message"):
            case "result":
                self._take_result(response.result)
            case "credit":
                with self._changed:
                    self._credits += response.credit.credits
                    if self._credits > MAX_CREDITS:
                        raise _protocol_error(f"{self._credits} credits")
                    self._send_commanded()
                    self._changed.notify_all()
            case "ack":
                pass  # nothing is spooled here yet; the result is what a caller awaits
            case "welcome":
                self._take_welcome(response.welcome)
            case "drain":
                with self._changed:
                    self._draining = True
                    refused = list(self._commanded)
                    self._commanded.clear()
                    self._changed.notify_all()
                for one in refused:
                    resolve(one.pending.future, _draining(self.server))
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
                self._take_command(response.command)
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

    def _take_command(self, command: fleet_pb2.Command) -> None:
        """Answer, or keep the command until what it asks for has been made."""
        try:
            wanted = parse_refine_command(command)
        except FeatherwireError as error:
            self._requests.put(command_reply(command.command_id, error))
            return
        asked = Parked(command.command_id, wanted, Future())
        with self._changed:
            if any(sequence == wanted.sequence for sequence, _, _ in self._pending):
                self._refinements.setdefault(wanted.sequence, asked.reply)
            if wanted.sequence not in self._parked and self._kept.unfinished(wanted.sequence):
                self._parked[wanted.sequence] = asked
                return
        self._answer(asked)

    def _answer(self, asked: Parked) -> None:
        """Queue the layers that are asked for, or say why not."""
        wanted = asked.wanted
        with self._changed:
            try:
                self._raise_unless_open()
                refinement = self._kept.refinement(wanted.sequence, wanted.bundle_id, wanted.state)
                request = refine_request(refinement)
                self._check_size(request)
            except FeatherwireError as error:
                self._requests.put(command_reply(asked.command_id, error))
                resolve(asked.reply, error)
                return
            self._kept.sent(refinement)
            pending = Pending(refinement.payload_bytes, refines=True, future=asked.reply)
            self._commanded.append(Commanded(asked.command_id, refinement, request, pending))
            self._send_commanded()

    def _take_result(self, result: ingest_pb2.Result) -> None:
        received_at = time.perf_counter()
        refinement: Future[Reply] | None = None
        with self._changed:
            key = (result.sequence, result.bundle_short_id, result.state)
            pending = self._pending.pop(key, None)
            if pending is not None and not pending.refines:
                refinement = self._refinements.pop(result.sequence, None)
        if pending is None:
            return  # a repeated result, or one whose caller has given up
        round_trip_ms = (received_at - pending.sent_at) * 1e3
        try:
            outcome = outcome_from_message(result.outcome)
        except FeatherwireError as error:
            resolve(pending.future, error)
            return
        reply = Reply(
            outcome,
            result.sequence,
            result.state,
            round_trip_ms,
            result.bundle_short_id,
            pending.payload_bytes,
            pending.passes,
            refinement,
        )
        resolve(pending.future, reply)


def _draining(server: str) -> SessionError:
    return SessionError("draining", f"{server} is about to stop and takes no frames")


def _protocol_error(what: str) -> SessionError:
    return SessionError("invalid_message", f"the server broke the protocol: {what}")
