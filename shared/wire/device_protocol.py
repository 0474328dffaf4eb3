"""A device's half of the protocol, without I/O: calls in, messages out; messages in, events out.

    closed ──connect: Hello──> opening ──Welcome──> open ──Drain──> draining
       ▲                          │                  │ bye            │ bye
       │                          │                  └──> closing <───┘
       └──────── disconnected ────┴──────────────────────────┘

    call                    goes out, in this order                    comes back as
    connect                 Hello                                      Welcomed
    queue_refine            Refine, CommandReply, as soon as there     Answered
                            is credit, before any frame
    (after a lost stream)   Frames that are not acknowledged           Resent and as for send_frame
    send_frame, send_refine Frame, Refine; there must be credit        Acknowledged, Answered
    answer                  CommandReply                               (to CommandReceived)
    send_status, beat, bye  DeviceStatus, Heartbeat, Bye

It opens no socket, starts no thread and reads no clock: whoever owns it brings each message of the
server to ``receive``, sends what ``next_message`` has, and passes the time, in seconds of one
monotonic clock. It is not thread-safe.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic

from google.protobuf.message import Message

from shared.bitstream import varint
from shared.errors import BitstreamError, FeatherwireError, SessionError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2, types_pb2
from shared.wire.device_events import (
    Acknowledged,
    Answered,
    Backlogged,
    CommandReceived,
    Context,
    CreditGranted,
    Drained,
    Event,
    Failed,
    Key,
    Resent,
    Sent,
    Welcomed,
)
from shared.wire.failures import error_from_message, error_to_message
from shared.wire.features import header_of
from shared.wire.formats import SILENT, agreed_version, complete_id, short_ids, to_index
from shared.wire.requests import Hello, hello_message
from shared.wire.transport import (
    BATCH_BYTES,
    BATCH_MESSAGES,
    HEARTBEAT_TIME_S,
    HEARTBEAT_TIMEOUT_S,
    PROTOCOL_VERSION,
)

MAX_CREDITS = 4096

Queued = Callable[[Key | None, int, bool], None]
"""Is called for each message that will go out: with the key by which the server will acknowledge it
(None: it will not), its bytes, and whether it is a frame."""


class State(enum.Enum):
    """Where a device is with its server; see the picture above."""

    CLOSED = enum.auto()
    OPENING = enum.auto()
    OPEN = enum.auto()
    DRAINING = enum.auto()
    CLOSING = enum.auto()


@dataclass(frozen=True, slots=True)
class _Commanded(Generic[Context]):
    """Layers that a command asks for, waiting for credit."""

    sent: Sent[Context]
    request: bytes
    command_id: str


class DeviceProtocol(Generic[Context]):
    """One session of a device, over one stream after another."""

    def __init__(
        self,
        hello: Hello,
        *,
        server: str = "the server",
        remembers: bool = False,
        queued: Queued = lambda key, size, frame: None,
    ) -> None:
        """hello: what every stream begins with. server: its name in error texts. remembers: frames
        outlive their stream, and those that are not acknowledged go out again on the next one;
        without it they end with their stream. queued: see ``Queued``; it may not call back."""
        self.server = server
        self._hello = hello
        self._remembers = remembers
        self._queued = queued
        self._outbox: deque[bytes] = deque()
        self._awaited: dict[Key, Sent[Context]] = {}
        self._commanded: deque[_Commanded[Context]] = deque()
        self._again: deque[Sent[Context]] = deque()
        self._status = fleet_pb2.DeviceStatus()
        self._connected = self._draining = self._closing = False
        self._welcome: ingest_pb2.Welcome | None = None
        self._accepted: tuple[bytes, ...] = ()
        self._failure: FeatherwireError | None = None
        self._heard_at = 0.0
        self._beat_at: float | None = None
        self.format_version = SILENT[0]
        """Of bitstreams; that on which the last Welcome has agreed."""
        self.credits = 0
        """Frames and refinements that may be sent now."""
        self.last_sequence = 0
        """Of the frame that was sent last, here or on a stream before."""
        self.last_result_seen = hello.last_result_seen
        """Number of the last result; the next stream asks for those after it."""

    # -- facts -----------------------------------------------------------------------------------

    @property
    def state(self) -> State:
        """Where the device is with its server."""
        if not self._connected:
            return State.CLOSED
        if self._closing:
            return State.CLOSING
        if self._draining:
            return State.DRAINING
        return State.OPENING if self._welcome is None else State.OPEN

    @property
    def welcome(self) -> ingest_pb2.Welcome | None:
        """The server's answer to Hello, once it is here."""
        return self._welcome

    @property
    def failure(self) -> FeatherwireError | None:
        """Why this stream is of no more use, once it is not."""
        return self._failure

    @property
    def draining(self) -> bool:
        """The server takes no more frames and will soon end the stream."""
        return self._draining

    @property
    def closing(self) -> bool:
        """This end has said Bye."""
        return self._closing

    @property
    def can_send(self) -> bool:
        """Whether a frame may be sent now."""
        return self.state is State.OPEN and self._failure is None and self.credits > 0

    @property
    def unanswered(self) -> tuple[Sent[Context], ...]:
        """Frames and refinements whose result is still to come, as they were sent."""
        return tuple(self._awaited.values())

    @property
    def busy(self) -> bool:
        """Whether a result is still to come."""
        return bool(self._awaited)

    def awaits(self, sequence: int) -> bool:
        """Whether a result of this frame is still to come."""
        return any(awaited == sequence for awaited, _, _ in self._awaited)

    @property
    def why_closed(self) -> FeatherwireError | None:
        """Why nothing more may be sent; None where something may."""
        if self._failure is not None:
            return self._failure
        if self._draining:
            return SessionError("draining", f"{self.server} is about to stop and takes no frames")
        if self._closing or not self._connected:
            return SessionError("closed", "this session is closed")
        return None

    def raise_unless_open(self) -> None:
        """Raise ``SessionError`` where nothing more may be sent."""
        if (why := self.why_closed) is not None:
            raise why

    # -- the life of a stream --------------------------------------------------------------------

    def connect(self, now_s: float, *, last_result_seen: int | None = None) -> None:
        """A stream begins. last_result_seen: of the owner, who may have let go of more than this
        protocol has seen, or of less."""
        assert not self._connected, "one stream at a time"
        if last_result_seen is not None:
            self.last_result_seen = last_result_seen
        self._connected, self._draining, self._closing = True, False, False
        self._welcome = self._failure = self._beat_at = None
        self._heard_at = now_s
        self.credits = 0
        self._status = fleet_pb2.DeviceStatus()
        hello = replace(self._hello, last_result_seen=self.last_result_seen)
        self._put(ingest_pb2.ConnectRequest(hello=hello_message(hello)))

    def bye(self) -> None:
        """This end is done: what is in flight still comes, and nothing goes out after this."""
        self._put(ingest_pb2.ConnectRequest(bye=ingest_pb2.Bye()))
        self._closing = True

    def fail(self, error: FeatherwireError) -> None:
        """Note why the stream is of no more use; the first reason stands."""
        self._failure = self._failure or error

    def disconnected(self, error: FeatherwireError | None = None) -> list[Sent[Context]]:
        """The stream is over; returns what ends with it: all that waits, but for frames where the
        protocol remembers them. error: why, None where nothing went wrong."""
        if error is None:
            if self._draining:
                error = SessionError("draining", f"{self.server} has stopped")
            elif self._closing:
                error = SessionError("closed", "this session is closed")
            else:
                error = SessionError("connection_lost", f"{self.server} has ended the stream")
        self.fail(error)
        self._connected = False
        self.credits = 0
        self._outbox.clear()
        self._again.clear()
        ended = [one for one in self._awaited.values() if one.refines or not self._remembers]
        for one in ended:
            del self._awaited[one.key]
        return ended + self._abandon()

    # -- out -------------------------------------------------------------------------------------

    def next_message(self) -> bytes | None:
        """The next message to send: a request, or those that are ready together where the server
        takes a ``RequestBatch``; None while there is nothing to send.

        Nothing waits for a batch to fill.
        """
        if not self._outbox:
            return None
        batch, size = [self._outbox.popleft()], 0
        if self._welcome is not None and self._welcome.takes_batches:
            size = len(batch[0])
            while self._outbox and len(batch) < BATCH_MESSAGES:
                size += len(self._outbox[0])
                if size > BATCH_BYTES:
                    break
                batch.append(self._outbox.popleft())
        return together(batch)

    @property
    def has_message(self) -> bool:
        """Whether ``next_message`` has one."""
        return bool(self._outbox)

    def send_frame(self, frame: ingest_pb2.Frame, context: Context, now_s: float) -> Sent[Context]:
        """Send a frame, under the next sequence where it has none yet.

        Raises ``SessionError``: no_credit, message_too_large, draining, closed, or why the stream
        has ended. Then nothing has changed.
        """
        self.raise_unless_open()
        if self.credits <= 0:
            raise SessionError("no_credit", "the server takes no frame now")
        request = ingest_pb2.ConnectRequest(frame=frame)
        sequence = frame.sequence or self.last_sequence + 1
        request.frame.sequence = sequence
        for features in request.frame.features:
            complete_id(features, self._accepted)
        first = request.frame.features[0]
        key = (sequence, first.bundle_short_id, _state_of(first))
        # As it is for every server: another one lists other bundles.
        anywhere = request.SerializeToString() if self._remembers else None
        data = self._checked(self._for_this_server(request))
        sent = Sent(key, context, now_s, request=anywhere)
        self.last_sequence = max(self.last_sequence, sequence)
        self._post(sent, data)
        return sent

    def send_refine(
        self, refine: ingest_pb2.Refine, key: Key, context: Context, now_s: float
    ) -> Sent[Context]:
        """Send finer layers of an earlier frame; raises as ``send_frame`` does.

        key: what the result will be of.
        """
        self.raise_unless_open()
        if self.credits <= 0:
            raise SessionError("no_credit", "the server takes no layers now")
        data = self._checked(ingest_pb2.ConnectRequest(refine=refine))
        sent = Sent(key, context, now_s, refines=True)
        self._post(sent, data)
        return sent

    def queue_refine(
        self, refine: ingest_pb2.Refine, key: Key, context: Context, now_s: float, command_id: str
    ) -> None:
        """Send layers that a command asks for as soon as there is credit, and answer it then.

        Raises ``SessionError``: message_too_large, draining, closed, or why the stream has ended.
        """
        self.raise_unless_open()
        data = self._checked(ingest_pb2.ConnectRequest(refine=refine))
        sent = Sent(key, context, now_s, refines=True)
        self._commanded.append(_Commanded(sent, data, command_id))
        self._pump(now_s)

    def answer(self, command_id: str, error: FeatherwireError | None = None) -> None:
        """Reply to a command: it was carried out, or why not."""
        reply = fleet_pb2.CommandReply(command_id=command_id)
        if error is not None:
            reply.error.CopyFrom(error_to_message(error))
        self._put(ingest_pb2.ConnectRequest(command_reply=reply))

    def send_status(self, queued_frames: int, queued_bytes: int) -> None:
        """Say what waits on the device, for operators; what the server knows is not repeated."""
        status = fleet_pb2.DeviceStatus(queued_frames=queued_frames, queued_bytes=queued_bytes)
        if status != self._status and self._failure is None and not self._closing:
            self._status = status
            self._put(ingest_pb2.ConnectRequest(status=status))

    def beat(self, now_s: float) -> bool:
        """Keep an idle stream alive; to be called about every second. False: it is dead, end it.

        Nothing is asked of a stream with frames in flight, whose answer may wait behind them; the
        transport's own keepalive watches those.
        """
        if self.busy or self._failure is not None:
            self._beat_at = None
        elif self._beat_at is None:
            if now_s - self._heard_at >= HEARTBEAT_TIME_S:
                self._beat_at = now_s
                self.ask(now_s)
        elif self._heard_at >= self._beat_at:
            self._beat_at = None
        elif now_s - self._beat_at >= HEARTBEAT_TIMEOUT_S:
            self.fail(SessionError("connection_lost", f"{self.server} left a heartbeat unanswered"))
            return False
        return True

    def ask(self, now_s: float) -> None:
        """Ask the server for an answer now, whatever else is under way."""
        beat = ingest_pb2.Heartbeat(nonce=int(now_s * 1e3))
        self._put(ingest_pb2.ConnectRequest(heartbeat=beat))

    def _for_this_server(self, request: ingest_pb2.ConnectRequest) -> ingest_pb2.ConnectRequest:
        """The request with bundles named as Welcome lists them; it is changed in place."""
        for features in request.frame.features:
            to_index(features, self._accepted)
        return request

    def _checked(self, request: ingest_pb2.ConnectRequest) -> bytes:
        """Its bytes, unless the server would refuse them for their size."""
        data = request.SerializeToString()
        limit = self._welcome.settings.max_message_bytes if self._welcome is not None else 0
        if limit and len(data) > limit:
            raise SessionError(
                "message_too_large",
                f"the frame takes {len(data)} bytes, the server takes {limit}; send a coarser "
                "state",
            )
        return data

    def _post(self, sent: Sent[Context], data: bytes) -> None:
        """Send what costs a credit."""
        self.credits -= 1
        self._awaited[sent.key] = sent
        self._queued(sent.key, len(data), not sent.refines)
        self._outbox.append(data)

    def _put(self, request: ingest_pb2.ConnectRequest) -> None:
        """Send what costs none; on a stream that has ended, or will after Bye, it goes nowhere."""
        if self._closing or not self._connected:
            return
        data = request.SerializeToString()
        self._queued(None, len(data), False)
        self._outbox.append(data)

    def _pump(self, now_s: float) -> list[Event[Context]]:
        """Send what waits for credit: what commands ask for, then what was sent before."""
        while self._commanded and self.credits > 0 and not self._closing:
            one = self._commanded.popleft()
            one.sent.sent_at = now_s
            self._post(one.sent, one.request)
            self.answer(one.command_id)
        events: list[Event[Context]] = []
        while self._again and self.credits > 0 and self.can_send:
            sent = self._again.popleft()
            if sent.request is not None and self._awaited.get(sent.key) is sent:
                request = ingest_pb2.ConnectRequest.FromString(sent.request)
                self._post(sent, self._for_this_server(request).SerializeToString())
                events.append(Resent(sent))
        return events

    def _abandon(self) -> list[Sent[Context]]:
        abandoned = [one.sent for one in self._commanded]
        self._commanded.clear()
        return abandoned

    # -- in --------------------------------------------------------------------------------------

    def receive(self, response: ingest_pb2.ConnectResponse, now_s: float) -> list[Event[Context]]:
        """Take a message of the server, or a batch of them; returns what it means, in order.

        After a ``Failed`` that is ``broken`` nothing more is taken from this stream.
        """
        self._heard_at = now_s
        events: list[Event[Context]] = []
        for one in response.batch.responses or (response,):
            try:
                events += self._take(one, now_s)
            except FeatherwireError as error:
                self.fail(error)
                events.append(Failed(error, broken=True))
                break
        return events

    def _take(self, response: ingest_pb2.ConnectResponse, now_s: float) -> list[Event[Context]]:
        match response.WhichOneof("message"):
            case "ack":
                return [self._take_ack(response.ack)]
            case "result":
                return [self._take_result(response.result)]
            case "credit":
                self.credits += response.credit.credits
                if self.credits > MAX_CREDITS:
                    raise _broken(f"{self.credits} credits")
                return [*self._pump(now_s), CreditGranted()]
            case "backlog":
                return [Backlogged(response.backlog.frames)]
            case "welcome":
                return self._take_welcome(response.welcome, now_s)
            case "drain":
                self._draining = True
                return [Drained(response.drain.deadline_s, self._abandon())]
            case "error":
                error = error_from_message(response.error)
                self.fail(error)
                return [Failed(error, broken=False)]
            case "heartbeat":
                if not response.heartbeat.reply:
                    beat = ingest_pb2.Heartbeat(nonce=response.heartbeat.nonce, reply=True)
                    self._put(ingest_pb2.ConnectRequest(heartbeat=beat))
            case "command":
                pending = self.awaits(response.command.refine_frame.sequence)
                return [CommandReceived(response.command, pending)]
            case _:
                pass  # from a newer server; what it adds may be ignored
        return []

    def _take_welcome(self, welcome: ingest_pb2.Welcome, now_s: float) -> list[Event[Context]]:
        if self._welcome is not None:
            raise _broken("a second Welcome")
        if welcome.protocol_version != PROTOCOL_VERSION:
            raise SessionError(
                "unsupported_version",
                f"{self.server} speaks protocol version {welcome.protocol_version}, this client "
                f"{PROTOCOL_VERSION}",
            )
        if welcome.credits > MAX_CREDITS:
            raise _broken(f"{welcome.credits} credits")
        self.format_version = agreed_version(
            welcome.format_versions, self._hello.format_versions, self.server
        )
        self._accepted = short_ids(welcome.accepted_bundle_ids)
        self._welcome = welcome
        self.credits = welcome.credits
        self.last_sequence = max(self.last_sequence, welcome.resume_after_sequence)
        events: list[Event[Context]] = [Welcomed(welcome)]
        for sent in sorted(self._awaited.values(), key=lambda one: one.sequence):
            if sent.acknowledged:
                continue
            if sent.sequence <= welcome.resume_after_sequence:
                sent.acknowledged, sent.request = True, None
                events.append(Acknowledged(sent.key, sent, first=True))
            else:
                self._again.append(sent)
        return events + self._pump(now_s)

    def _take_ack(self, ack: ingest_pb2.Ack) -> Acknowledged[Context]:
        key = (ack.sequence, ack.bundle_short_id, ack.state)
        sent = self._awaited.get(key)
        first = not ack.duplicate if sent is None else not sent.acknowledged
        if sent is not None:
            sent.acknowledged, sent.request = True, None
        return Acknowledged(key, sent, first, ack.duplicate, ack.held_ms / 1000)

    def _take_result(self, result: ingest_pb2.Result) -> Answered[Context]:
        repeated = 0 < result.result_id <= self.last_result_seen
        self.last_result_seen = max(self.last_result_seen, result.result_id)
        sent = self._awaited.pop((result.sequence, result.bundle_short_id, result.state), None)
        return Answered(result, sent, repeated)


def _state_of(features: types_pb2.Features) -> int:
    """The state that the server will name; 0 of bytes that it will refuse."""
    try:
        return header_of(features).state
    except BitstreamError:
        return 0


def _broken(what: str) -> SessionError:
    return SessionError("invalid_message", f"the server broke the protocol: {what}")


# -- batches -------------------------------------------------------------------------------------

_LENGTH_DELIMITED = 2


def together(requests: Sequence[bytes]) -> bytes:
    """Serialised ConnectRequests as one: one as it is, several as a ``RequestBatch``.

    Of 2**28 bytes at most. It is made of bytes because messages that are put into another one are
    copied several times.
    """
    if len(requests) == 1:
        return requests[0]
    inside = b"".join(part for one in requests for part in _field(_REQUESTS, one))
    return b"".join(_field(_BATCH, inside))


def _tag(message: type[Message], field: str) -> bytes:
    return varint.encode(message.DESCRIPTOR.fields_by_name[field].number << 3 | _LENGTH_DELIMITED)


def _field(tag: bytes, value: bytes) -> tuple[bytes, bytes, bytes]:
    return tag, varint.encode(len(value)), value


_BATCH = _tag(ingest_pb2.ConnectRequest, "batch")
_REQUESTS = _tag(ingest_pb2.RequestBatch, "requests")
