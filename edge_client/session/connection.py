"""A stream of frames: credits, numbering, and a future for each frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace

import grpc

from edge_client.session.commands import Commands, TakeSetting
from edge_client.session.listener import Listener
from edge_client.session.pending import Key, Pending, Reply, key_of, refine_request, resolve
from edge_client.session.refinement_store import Part, Refinement, RefinementStore
from edge_client.session.stream import MAX_CREDITS, Stream, draining, protocol_error
from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.wire import FrameOutcome, PictureRequest, error_from_message
from shared.wire.features import file_bytes
from shared.wire.requests import Frame, Hello, frame_message
from shared.wire.results import outcome_from_message

TakeOutcome = Callable[[bytes, int, FrameOutcome], None]
"""Is told the short id of a frame's bundle, the number of its result (0 where the frame was not
taken), and what became of it."""


class Connection(Stream):
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
        store: RefinementStore | None = None,
        timeout_s: float = 10.0,
        listener: Listener | None = None,
        take_setting: TakeSetting | None = None,
        outcome: TakeOutcome | None = None,
    ) -> None:
        """Say Hello and wait for Welcome. Raises ``SessionError`` when that does not come.

        take_setting: carries out the server's other commands, see ``Commands``. outcome: is told
        what became of every frame.
        """
        self._tell_outcome = outcome
        self._store = store if store is not None else RefinementStore()
        self._pending: dict[Key, Pending] = {}
        self._credits = 0
        self._last_sequence = 0
        self._told = fleet_pb2.DeviceStatus()
        changed = threading.Condition()
        self._commands = Commands(self, changed, self._store, take_setting)
        super().__init__(channel, server, hello, changed, listener, timeout_s)

    @property
    def credits(self) -> int:
        """Frames that may be sent at once without waiting."""
        return self._credits

    def submit(
        self,
        parts: tuple[Part, ...],
        *,
        tasks: tuple[str, ...],
        picture: PictureRequest | None,
        deadline_s: float,
        later: tuple[tuple[str, ...], PictureRequest | None] | None = None,
        more: bool = False,
        traceparent: str = "",
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
            message.traceparent = traceparent
            request = ingest_pb2.ConnectRequest(frame=message)
            self.check_size(request)
            self._last_sequence = sequence
            # Before the frame is sent: the server may ask for more at once.
            self._store.keep(sequence, parts, *(later or (tasks, picture)), more=more)
            pending = Pending(sum(one.file_bytes for one in sent), first.passes)
            self.post(request, (sequence, first.bundle_id, first.state), pending)
        return sequence, pending.future

    def send_frame(self, message: ingest_pb2.Frame) -> Future[Reply]:
        """Send a frame that has its sequence already; there must be credit.

        Raises ``SessionError``: no_credit, message_too_large, draining, or why the stream ended.
        """
        request = ingest_pb2.ConnectRequest(frame=message)
        first = message.features[0]
        size = sum(map(file_bytes, message.features))
        with self._changed:
            self.raise_unless_open()
            if self._credits == 0:
                raise SessionError("no_credit", "the server takes no frame now")
            self.check_size(request)
            pending = Pending(size, first.partial.passes)
            self.post(request, (message.sequence, first.bundle_short_id, first.state), pending)
        return pending.future

    def finish(self, sequence: int, parts: tuple[Part, ...]) -> None:
        """Keep further parts of a frame, and send of them what the server has asked for."""
        self._store.finish(sequence, parts)
        self._commands.finished(sequence)

    def refine(self, refinement: Refinement, *, deadline_s: float) -> Future[Reply]:
        """Send finer layers of an earlier frame; raises like ``submit``."""
        request = refine_request(refinement)
        deadline = time.monotonic() + deadline_s
        with self._changed:
            self._wait_for_credit(deadline, deadline_s)
            self.check_size(request)
            pending = Pending(refinement.payload_bytes, refines=True)
            self.post(request, key_of(refinement), pending)
        return pending.future

    def tell_status(self, queued_frames: int, queued_bytes: int) -> None:
        """Tell the server what waits here, for its operators; what it knows is not said again."""
        status = fleet_pb2.DeviceStatus(queued_frames=queued_frames, queued_bytes=queued_bytes)
        with self._changed:
            if status != self._told and self._failure is None and not self._closing:
                self._told = status
                self.put(ingest_pb2.ConnectRequest(status=status))

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
        self.raise_unless_open()

    # -- for its commands ------------------------------------------------------------------------

    @property
    def has_credit(self) -> bool:
        """Whether a message may be posted."""
        return self._credits > 0

    def awaits(self, sequence: int) -> bool:
        """Whether a result of this frame is still to come."""
        return any(awaited == sequence for awaited, _, _ in self._pending)

    def post(self, request: ingest_pb2.ConnectRequest, key: Key, pending: Pending) -> None:
        """Send what costs a credit. The connection's lock is held."""
        self._credits -= 1
        self._pending[key] = replace(pending, sent_at=time.perf_counter())
        if self._listener is not None:
            frame = request.WhichOneof("message") == "frame"
            self._listener.posted(key, request.ByteSize(), frame=frame)
        self._requests.put(request)

    def check_size(self, request: ingest_pb2.ConnectRequest) -> None:
        """Raise ``SessionError("message_too_large")`` for what the server would refuse."""
        limit = self.welcome.settings.max_message_bytes
        if limit and request.ByteSize() > limit:
            raise SessionError(
                "message_too_large",
                f"the frame takes {request.ByteSize()} bytes, the server takes {limit}; send a "
                "coarser state",
            )

    # -- receiving -------------------------------------------------------------------------------

    def _busy(self) -> bool:
        return bool(self._pending)

    def _welcomed(self, welcome: ingest_pb2.Welcome) -> None:
        self._credits = welcome.credits
        self._last_sequence = welcome.resume_after_sequence

    def _end(self, error: FeatherwireError) -> None:
        """The stream is over: everything still awaited fails, once."""
        with self._changed:
            if self._failure is None:
                self._failure = error
            futures = [one.future for one in self._pending.values()]
            self._pending.clear()
            futures += self._commands.abandon()
            self._changed.notify_all()
        for future in futures:
            resolve(future, self._failure)
        self._tell_changed()

    def _tell_changed(self) -> None:
        if self._listener is not None:
            self._listener.changed()

    def _take(self, response: ingest_pb2.ConnectResponse) -> None:
        match response.WhichOneof("message"):
            case "result":
                self._take_result(response.result)
            case "credit":
                with self._changed:
                    self._credits += response.credit.credits
                    if self._credits > MAX_CREDITS:
                        raise protocol_error(f"{self._credits} credits")
                    self._commands.send()
                    self._changed.notify_all()
                self._tell_changed()
            case "ack":
                if self._listener is not None:
                    self._take_ack(response.ack)
            case "welcome":
                self._take_welcome(response.welcome)
            case "drain":
                with self._changed:
                    self._draining = True
                    refused = self._commands.abandon()
                    self._changed.notify_all()
                for future in refused:
                    resolve(future, draining(self.server))
                self._tell_changed()
            case "error":
                # The status that follows says that the stream is over.
                error = error_from_message(response.error)
                with self._changed:
                    self._failure = self._failure or error
            case "heartbeat":
                if not response.heartbeat.reply:
                    beat = ingest_pb2.Heartbeat(nonce=response.heartbeat.nonce, reply=True)
                    self.put(ingest_pb2.ConnectRequest(heartbeat=beat))
            case "command":
                self._commands.take(response.command)
            case _:
                pass  # from a newer server; what it adds may be ignored

    def _take_ack(self, ack: ingest_pb2.Ack) -> None:
        """Tell the listener of a frame's own acknowledgement, not of a refinement's."""
        assert self._listener is not None
        key = (ack.sequence, ack.bundle_short_id, ack.state)
        with self._changed:
            pending = self._pending.get(key)
        self._listener.delivered(key)
        if pending is None or not pending.refines:
            self._listener.acknowledged(ack.sequence)

    def _take_result(self, result: ingest_pb2.Result) -> None:
        received_at = time.perf_counter()
        refinement: Future[Reply] | None = None
        with self._changed:
            key = (result.sequence, result.bundle_short_id, result.state)
            pending = self._pending.pop(key, None)
            if pending is not None and not pending.refines:
                refinement = self._commands.refinement_of(result.sequence)
        if self._listener is not None:
            self._listener.delivered(key)
        if pending is None and self._listener is None:
            return  # a repeated result, or one whose caller has given up
        try:
            outcome = outcome_from_message(result.outcome)
        except FeatherwireError as error:
            if pending is not None and (self._listener is None or pending.refines):
                resolve(pending.future, error)
                return
            outcome = FrameOutcome(error=error)
        if self._tell_outcome is not None:
            self._tell_outcome(result.bundle_short_id, result.result_id, outcome)
        sent_at = pending.sent_at if pending is not None else received_at
        reply = Reply(
            outcome,
            result.sequence,
            result.state,
            (received_at - sent_at) * 1e3,
            result.bundle_short_id,
            pending.payload_bytes if pending is not None else 0,
            pending.passes if pending is not None else 0,
            refinement,
            result.result_id,
        )
        if pending is not None:
            resolve(pending.future, reply)
        elif self._listener is not None:
            self._listener.unclaimed(reply)
