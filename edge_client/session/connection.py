"""One connection to a server: its channel, its stream, and a future for each frame.

``DeviceProtocol`` decides what is sent, and when; here are the threads around it. gRPC takes
messages in a thread of its own, a reader hands out what the server sends, and callers come from
theirs. All state is under one lock; events are handed out without it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

from edge_client.session.frames import Framer, Outgoing, stamp
from edge_client.session.groups import Groups
from edge_client.session.refinement_store import Part, Refinement, RefinementStore
from edge_client.session.results import Reply, captured_at_of
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.rpc.channel import Channel
from shared.rpc.errors import CallError, lost_error
from shared.wire import FrameOutcome
from shared.wire.commands import KeyFrameCommand, RefineCommand, Setting, parse_command
from shared.wire.device_events import (
    Acknowledged,
    Answered,
    Backlogged,
    CommandReceived,
    CreditGranted,
    Drained,
    Event,
    Failed,
    Key,
    Sent,
)
from shared.wire.device_protocol import DeviceProtocol
from shared.wire.features import file_bytes, passes_of
from shared.wire.requests import Frame, Hello, frame_message, refine_message
from shared.wire.results import outcome_from_message
from shared.wire.transport import CONNECT

Done = Callable[[FeatherwireError | None], None]
"""Answers a command: with None when it was carried out."""

TakeSetting = Callable[[Setting, Done], None]
"""Carries out a command about the device, and calls its second argument once, then or later: with
None, or with why it could not. Raises FeatherwireError instead when it cannot begin."""

TakeOutcome = Callable[[bytes, int, FrameOutcome], None]
"""Takes the short id of a frame's bundle, the number of its result (0 where the frame was not
taken), and what became of it."""


class Listener(Protocol):
    """Callbacks of a stream: bytes sent, acknowledgements, results that nobody awaits.

    They come from the reader's thread, but for ``posted``; an error that they raise ends the
    stream.
    """

    def posted(self, key: Key | None, message_bytes: int, *, frame: bool) -> None:
        """A message goes out, which the server will acknowledge by that key; None: it will not.

        Called under the connection's lock: it may not call back.
        """

    def delivered(self, key: Key, held_s: float = 0.0) -> None:
        """The server has what was posted with this key, or refuses it. held_s: for how long it had
        it before it said so."""

    def acknowledged(self, sequence: int) -> None:
        """The server has this frame, at the state that was sent."""

    def unclaimed(self, reply: Reply) -> None:
        """A result that no future of this connection awaits: of a stream before."""

    def changed(self) -> None:
        """There is credit, or there will be no more."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """The reply to come of a frame or a refinement, and what the device knows of it itself."""

    payload_bytes: int
    passes: int = 0
    future: Future[Reply] = field(default_factory=Future)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A command about a frame; ``reply`` is of what comes of it."""

    command_id: str
    wanted: RefineCommand
    reply: Future[Reply]


class Connection:
    """An open stream. ``submit`` and ``refine`` may be called from any thread.

    When the server asks for more layers of a frame, they are sent from what is kept, as soon as
    there is credit, and before any further frame.
    """

    framer: Framer
    """What makes frames for this server; whoever opens the connection sets it."""

    def __init__(
        self,
        channel: Channel,
        server: str,
        hello: Hello,
        *,
        store: RefinementStore,
        timeout_s: float = 10.0,
        listener: Listener | None = None,
        take_setting: TakeSetting | None = None,
        outcome: TakeOutcome | None = None,
        groups: Groups | None = None,
    ) -> None:
        """Say Hello and wait for Welcome. Raises ``SessionError`` when that does not come.

        channel: is closed with the connection. take_setting: carries out the server's commands
        about the device; None refuses them. outcome: takes what became of every frame.
        groups: of the session's pictures, which commands and failures begin anew.
        """
        self.channel = channel
        self.server = server
        self._store = store
        self._listener = listener
        self._take_setting = take_setting
        self._tell_outcome = outcome
        self._groups = groups
        lock = threading.RLock()
        self._changed = threading.Condition(lock)
        self._sendable = threading.Condition(lock)
        self._nothing_more = False
        self._backlog_at = 0.0
        # By sequence: what will come of a command, until the frame's own result has come.
        self._refinements: dict[int, Future[Reply]] = {}
        # By sequence: commands about frames of which more is being made.
        self._parked: dict[int, _Asked] = {}
        self._protocol = DeviceProtocol[_Pending](hello, server=server, queued=self._queued)
        with lock:
            self._protocol.connect(time.monotonic())
        connect: Any = channel.stream_stream(
            CONNECT, response_deserializer=ingest_pb2.ConnectResponse.FromString
        )
        self._call = connect(self._requests())
        self._reader = threading.Thread(target=self._read, name="featherwire-reader", daemon=True)
        self._reader.start()
        try:
            self.welcome = self._wait_for_welcome(timeout_s)
        except BaseException:
            self.close(timeout_s=0)
            raise

    # -- its state -------------------------------------------------------------------------------

    @property
    def credits(self) -> int:
        """Frames that may be sent at once without waiting."""
        return self._protocol.credits

    @property
    def next_sequence(self) -> int:
        """Of the frame that is submitted next."""
        return self._protocol.last_sequence + 1

    @property
    def format_version(self) -> int:
        """The newest of the format of bitstreams that both ends know."""
        return self._protocol.format_version

    @property
    def failure(self) -> FeatherwireError | None:
        """Why the stream has ended, once it has."""
        return self._protocol.failure

    def time_of(self, since: float, *, hard: bool) -> float:
        """When the deadline begins of a frame sent at ``since`` (``time.monotonic``): then,
        or when a busy server last said that frames are still with it, unless it is ``hard``."""
        return since if hard else max(since, self._backlog_at)

    @property
    def draining(self) -> bool:
        """The server takes no more frames and will soon end the stream."""
        return self._protocol.draining

    def close(self, timeout_s: float = 10.0) -> None:
        """Say Bye, give frames in flight ``timeout_s`` to come back, and end the stream."""
        with self._sendable:
            self._protocol.bye()
            self._nothing_more = True
            self._sendable.notify_all()
        self._reader.join(timeout_s)
        self._call.cancel()
        self._reader.join(5.0)
        self.channel.close()

    # -- sending ---------------------------------------------------------------------------------

    def submit(self, frame: Outgoing) -> tuple[int, Future[Reply]]:
        """Send a frame as soon as there is credit; returns its sequence and its reply to come.

        What of it is not sent is kept; ``finish`` brings the parts that are still to be made.
        Raises ``SessionError``: deadline_exceeded while waiting for credit, message_too_large,
        draining, or why the stream has ended.
        """
        more = frame.make_others is not None
        with self._changed:
            self._wait_for_credit(frame.deadline_s, hard=frame.hard_deadline)
            frame = frame.numbered(self.next_sequence)
            pending = _Pending(frame.file_bytes, frame.sent[0].passes)
            message = frame_message(Frame(0, frame.sent, frame.tasks, frame.picture))
            message.traceparent = frame.traceparent
            stamp(message, frame.captured_at)
            sequence = self._protocol.send_frame(message, pending, time.monotonic()).sequence
            frame.on_its_way()
            # Nothing goes out while the lock is held: the server may ask for more at once.
            self._store.keep(sequence, frame.parts, *frame.later, more=more)
        return sequence, pending.future

    def send_frame(self, message: ingest_pb2.Frame) -> Future[Reply]:
        """Send a frame that has its sequence already; there must be credit.

        Raises ``SessionError``: no_credit, message_too_large, draining, or why the stream ended.
        """
        passes = passes_of(message.features[0])
        pending = _Pending(sum(map(file_bytes, message.features)), passes)
        with self._changed:
            self._protocol.send_frame(message, pending, time.monotonic())
        return pending.future

    def finish(self, sequence: int, parts: tuple[Part, ...]) -> None:
        """Keep further parts of a frame, and send of them what the server has asked for."""
        self._store.finish(sequence, parts)
        with self._changed:
            asked = self._parked.pop(sequence, None)
        if asked is not None:
            self._send_asked(asked)

    def refine(self, refinement: Refinement, *, deadline_s: float) -> Future[Reply]:
        """Send finer layers of an earlier frame; raises like ``submit``."""
        self._check_version(refinement)
        pending = _Pending(refinement.payload_bytes)
        message = refine_message(refinement)
        with self._changed:
            self._wait_for_credit(deadline_s, hard=self.framer.hard_deadline)
            self._protocol.send_refine(message, _key_of(refinement), pending, time.monotonic())
        return pending.future

    def _check_version(self, refinement: Refinement) -> None:
        """Layers that were kept for another server may be in a format that this one lacks."""
        if refinement.version > self.format_version:
            raise SessionError(
                "not_refinable",
                f"the layers of frame {refinement.sequence} are kept in format "
                f"{refinement.version}; {self.server} reads {self.format_version}",
            )

    def send_status(self, queued_frames: int, queued_bytes: int) -> None:
        """Tell the server what waits here, for its operators; what it knows is not repeated."""
        with self._changed:
            self._protocol.send_status(queued_frames, queued_bytes)

    def beat(self) -> None:
        """Keep an idle stream alive: ask for an answer, and end a stream that gives none.

        To be called about every second.
        """
        with self._changed:
            alive = self._protocol.beat(time.monotonic())
        if not alive:
            self._call.cancel()

    def _wait_for_credit(self, deadline_s: float, *, hard: bool) -> None:
        """Return when a message may be sent; commanded refinements go first."""
        began = time.monotonic()
        protocol = self._protocol
        while protocol.credits == 0 and protocol.failure is None and not protocol.draining:
            remaining_s = self.time_of(began, hard=hard) + deadline_s - time.monotonic()
            if remaining_s <= 0:
                raise SessionError(
                    "deadline_exceeded", f"the server gave no credit within {deadline_s:g} s"
                )
            self._changed.wait(remaining_s)
        protocol.raise_unless_open()

    def _queued(self, key: Key | None, message_bytes: int, frame: bool) -> None:
        """A message is ready to go out. The lock is held."""
        if self._listener is not None:
            self._listener.posted(key, message_bytes, frame=frame)
        self._sendable.notify_all()

    def _requests(self) -> Iterator[bytes]:
        """What goes out, for gRPC's own thread."""
        while True:
            with self._sendable:
                while (message := self._protocol.next_message()) is None:
                    if self._nothing_more:
                        return
                    self._sendable.wait()
            yield message

    # -- receiving -------------------------------------------------------------------------------

    def _wait_for_welcome(self, timeout_s: float) -> ingest_pb2.Welcome:
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while self._protocol.welcome is None:
                if self._protocol.failure is not None:
                    raise self._protocol.failure
                remaining_s = deadline - time.monotonic()
                if remaining_s <= 0:
                    raise SessionError(
                        "unreachable", f"{self.server} did not say Welcome within {timeout_s:g} s"
                    )
                self._changed.wait(remaining_s)
            return self._protocol.welcome

    def _read(self) -> None:
        try:
            for response in self._call:
                # One by one, so that what a later one changes is not seen before its time.
                for one in response.batch.responses or (response,):
                    self._receive(one)
            self._end(None)
        except CallError as error:
            self._end(lost_error(error, self.server))
        except FeatherwireError as error:
            self._end(error)
            self._call.cancel()
        except Exception as error:  # whatever it is, nobody must wait for a stream that is not read
            logging.getLogger(__name__).exception("reading a stream failed")
            self._end(SessionError("internal_error", f"reading the stream failed: {error}"))
            self._call.cancel()
        finally:
            with self._sendable:  # lets gRPC's own thread end
                self._nothing_more = True
                self._sendable.notify_all()

    def _receive(self, response: ingest_pb2.ConnectResponse) -> None:
        with self._changed:
            events = self._protocol.receive(response, time.monotonic())
            self._changed.notify_all()
        for event in events:
            self._handle(event)

    def _handle(self, event: Event[_Pending]) -> None:
        match event:
            case Answered():
                self._take_result(event)
            case Acknowledged(key=key, sent=sent, held_s=held_s):
                if self._listener is not None:
                    self._listener.delivered(key, held_s)
                    if sent is None or not sent.refines:  # the frame's own, not a refinement's
                        self._listener.acknowledged(key[0])
            case CreditGranted():
                self._tell_changed()
            case Backlogged():
                self._backlog_at = time.monotonic()
            case CommandReceived():
                self._take_command(event)
            case Drained(abandoned=abandoned):
                self._give_up(abandoned)
                self._tell_changed()
            case Failed(error=error, broken=True):
                raise error
            case _:
                pass

    def _end(self, error: FeatherwireError | None) -> None:
        """The stream is over: everything still awaited fails, once."""
        with self._changed:
            ended = self._protocol.disconnected(error)
            self._changed.notify_all()
        self._give_up(ended)
        self._tell_changed()

    def _give_up(self, unanswered: Sequence[Sent[_Pending]]) -> None:
        """Tell those who wait for them why no result will come."""
        why = self._protocol.why_closed
        assert why is not None, "nothing is given up on an open stream"
        for one in unanswered:
            _resolve(one.context.future, why)

    def _tell_changed(self) -> None:
        if self._listener is not None:
            self._listener.changed()

    def _take_result(self, event: Answered[_Pending]) -> None:
        result, sent = event.result, event.sent
        received_at = time.monotonic()
        refinement: Future[Reply] | None = None
        refines = sent is not None and sent.refines
        if sent is not None and not refines:
            with self._changed:
                refinement = self._refinements.pop(result.sequence, None)
        if self._listener is not None:
            self._listener.delivered(event.key)
        elif sent is None:
            return  # a repeated result, or one whose caller has given up
        try:
            outcome = outcome_from_message(result.outcome)
        except FeatherwireError as error:
            if sent is not None and (self._listener is None or sent.refines):
                _resolve(sent.context.future, error)
                return
            outcome = FrameOutcome(error=error)
        if self._groups is not None and outcome.error is not None and not refines:
            self._groups.failed(result.sequence, outcome.error, taken=result.result_id != 0)
        if self._tell_outcome is not None:
            self._tell_outcome(result.bundle_short_id, result.result_id, outcome)
        reply = Reply(
            outcome,
            result.sequence,
            result.state,
            (received_at - sent.sent_at) * 1e3 if sent is not None else 0.0,
            result.bundle_short_id,
            sent.context.payload_bytes if sent is not None else 0,
            sent.context.passes if sent is not None else 0,
            refinement,
            result.result_id,
            result.cursor,
            captured_at_of(result),
        )
        if sent is not None:
            _resolve(sent.context.future, reply)
        elif self._listener is not None:
            self._listener.unclaimed(reply)

    # -- commands --------------------------------------------------------------------------------

    def _take_command(self, event: CommandReceived) -> None:
        """Carry it out, or keep it until what it asks for has been made."""
        command_id = event.command.command_id
        try:
            wanted = parse_command(event.command)
            if isinstance(wanted, KeyFrameCommand):
                if self._groups is not None:
                    self._groups.begin()
                self._answer(command_id, None)
                return
            if not isinstance(wanted, RefineCommand):
                self._set(command_id, wanted)
                return
        except FeatherwireError as error:
            self._answer(command_id, error)
            return
        asked = _Asked(command_id, wanted, Future())
        with self._changed:
            if event.pending:
                self._refinements.setdefault(wanted.sequence, asked.reply)
            if wanted.sequence not in self._parked and self._store.unfinished(wanted.sequence):
                self._parked[wanted.sequence] = asked
                return
        self._send_asked(asked)

    def _set(self, command_id: str, wanted: Setting) -> None:
        if self._take_setting is None:
            raise SessionError("unsupported_command", "this client takes no settings")
        # On a stream that has ended meanwhile nobody hears the answer: the command comes again.
        self._take_setting(wanted, lambda error: self._answer(command_id, error))

    def _answer(self, command_id: str, error: FeatherwireError | None) -> None:
        with self._changed:
            self._protocol.answer(command_id, error)

    def _send_asked(self, asked: _Asked) -> None:
        """Send the layers that are asked for, once there is credit, or say why not."""
        wanted = asked.wanted
        with self._changed:
            try:
                self._protocol.raise_unless_open()
                refinement = self._store.refinement(wanted.sequence, wanted.bundle_id, wanted.state)
                self._check_version(refinement)
                self._protocol.queue_refine(
                    refine_message(refinement),
                    _key_of(refinement),
                    _Pending(refinement.payload_bytes, future=asked.reply),
                    time.monotonic(),
                    asked.command_id,
                )
            except FeatherwireError as error:
                self._protocol.answer(asked.command_id, error)
                _resolve(asked.reply, error)
                return
            self._store.sent(refinement)


def _key_of(refinement: Refinement) -> Key:
    """What the result of a refinement will be of."""
    return refinement.sequence, refinement.bundle_id, refinement.state


def _resolve(future: Future[Reply], outcome: Reply | FeatherwireError) -> None:
    """Tell whoever waits."""
    with suppress(Exception):  # cancelled in this moment: nobody waits any more
        if isinstance(outcome, Reply):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)
