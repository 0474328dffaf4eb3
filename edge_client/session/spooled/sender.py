"""The spool sender: it carries a spool's frames to a server, over as many streams as that takes.

    waiting ──open──> connected ──lost, Drain, heartbeat unanswered──> waiting (backoff)
       │                    │
       └── fatal ──> stopped <┘ close

One thread connects, sends in order and watches; a stream's reader reports acknowledgements and
results. A frame leaves the spool when it is acknowledged; what becomes of it then: `unanswered`.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from edge_client.rate import RateControl
from edge_client.session.connection import Connection
from edge_client.session.events import nobody
from edge_client.session.refinement_store import RefinementStore
from edge_client.session.results import Reply
from edge_client.session.spooled.key_frames import KeyFrames
from edge_client.session.spooled.unanswered import Unanswered
from edge_client.spool import Spool
from shared.backoff import Backoff
from shared.errors import FeatherwireError, SessionError, SpoolError
from shared.wire.device_events import Key

ACCESS_REASONS = frozenset(
    {"forbidden", "token_expired", "token_revoked", "unauthenticated", "wrong_device"}
)
"""Nobody lets this device in: another token is wanted, and frames can wait for it."""

FATAL_REASONS = ACCESS_REASONS | {
    "bad_address",
    "bundle_mismatch",
    "format_unsupported",
    "invalid_message",
    "unsupported_version",
}
"""Connecting again would not help: somebody must change something first.

Not ``bad_tls_files``: those were good when the session was opened, and are being replaced."""

FORKED = "another_frame"
"""A frame's number is taken by another picture: somebody else sends from a copy of this spool."""

SAME_S = 0.001
"""Times of one picture differ by less, however they were rounded."""

WATCH_S = 0.5
HURRY_S = 0.2
EXPIRE_S = 5.0


class SpoolSender:
    """Start it with ``start``. ``put``, ``take`` and ``wait`` are for the caller's thread."""

    def __init__(
        self,
        spool: Spool,
        open_connection: Callable[[SpoolSender], Connection],
        *,
        store: RefinementStore,
        rate: RateControl,
        tell: Callable[[FeatherwireError | None], None] = nobody,
        renewed: Callable[[], None] = lambda: None,
        backoff: Backoff | None = None,
    ) -> None:
        """open_connection: connects with this as the listener. tell: see
        ``SessionEvents.connection``. renewed: is called when the spool's session is another
        one."""
        self._spool = spool
        self._changed = threading.Condition()
        self._key_frames = KeyFrames(spool)
        self.answers = Unanswered(spool, self._changed, self._sent_back, self._unreadable, renewed)
        self._open_connection = open_connection
        self._store = store
        self._rate = rate
        self._backoff = backoff or Backoff()
        self._wake = threading.Event()
        self._closing = False
        self._connection: Connection | None = None
        self._fatal: FeatherwireError | None = None
        self._last_error: FeatherwireError | None = None
        self._down_since = time.monotonic()
        self._attempted = False
        self._cursor = 0
        self._refused: FeatherwireError | None = None
        self._tell = tell
        # Why there is no stream, as far as that was told since there was one.
        self._told: set[str] = set()
        self._thread = threading.Thread(target=self._run, name="featherwire-spool", daemon=True)

    # -- for the caller --------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to connect."""
        self._thread.start()

    def close(self, timeout_s: float = 10.0) -> None:
        """End the stream; what the server does not acknowledge by then stays in the spool."""
        self._closing = True
        self._wake.set()
        # One that is still connecting ends by itself: nobody waits for it.
        self._thread.join(timeout_s if self._connection is not None else 0.2)
        connection = self._connection
        if connection is not None:
            connection.close(timeout_s)
            self._connection = None

    @property
    def connection(self) -> Connection | None:
        """The open stream, if there is one."""
        return self._connection

    @property
    def fatal(self) -> FeatherwireError | None:
        """Why there will be no further stream."""
        return self._fatal

    @property
    def last_error(self) -> FeatherwireError | None:
        """Why there is no stream."""
        return self._fatal or self._last_error

    def down_s(self) -> float:
        """Seconds without a stream; 0 while there is one."""
        return 0.0 if self._connection is not None else time.monotonic() - self._down_since

    def wait_connected(self, timeout_s: float, hurry: threading.Event | None = None) -> bool:
        """Wait for the first attempt to connect to end, or for ``hurry``; whether there is a
        stream."""
        until = time.monotonic() + timeout_s
        with self._changed:
            while not (self._connection is not None or self._fatal is not None or self._attempted):
                left_s = until - time.monotonic()
                if left_s <= 0 or (hurry is not None and hurry.is_set()):
                    break
                self._changed.wait(min(left_s, HURRY_S))
        return self._connection is not None

    def put(
        self,
        enqueue: Callable[[], int],
        source: Any,
        deadline_s: float,
        then: Callable[[int], None] = lambda sequence: None,
        *,
        hard: bool = False,
    ) -> int:
        """Spool a frame with ``enqueue``, call ``then`` with its sequence, and send it.

        hard: the deadline is none that a busy server can put off.
        """
        with self._changed:
            sequence = enqueue()
            self.answers.check_session()
            then(sequence)
            self.answers.expect(sequence, source, deadline_s, hard=hard)
            self.answers.take_dropped()
        self._wake.set()
        return sequence

    # -- from the stream's reader ----------------------------------------------------------------

    def posted(self, key: Key | None, message_bytes: int, *, frame: bool) -> None:
        """A message goes out."""
        self._rate.posted(key, message_bytes, frame=frame)

    def delivered(self, key: Key, held_s: float = 0.0) -> None:
        """The server has what was posted with this key, and had it for ``held_s`` seconds."""
        self._rate.acknowledged(key, held_s)

    def acknowledged(self, sequence: int) -> None:
        """The server has this frame."""
        self._backoff.reset()
        self._spool.acknowledge(sequence)
        self.answers.acknowledged(sequence)
        self._wake.set()

    def unclaimed(self, reply: Reply) -> None:
        """A result of a frame that went out on a stream before, from this spool or a copy of it."""
        if self._is_ours(reply.sequence, reply.captured_at):
            self.answers.answered(reply)

    def changed(self) -> None:
        """The stream has credit, or has ended."""
        self._wake.set()

    def failing(self, error: FeatherwireError) -> None:
        """A first attempt to connect has failed, others follow: on this thread."""
        if not self._closing and error.message not in self._told:
            self._told.add(error.message)
            self._tell(error)

    def _sent_back(self, error: FeatherwireError) -> None:
        self._refused = error
        self._wake.set()

    def _unreadable(self, sequence: int, again: bool) -> None:
        self._key_frames.lacks(sequence, again=again)

    # -- its own thread --------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            try:
                connection = self._open_connection(self)
            except FeatherwireError as error:
                self._disconnected(error)
                if self._fatal is not None:
                    return
                self._pause(self._backoff.next_s())
                continue
            except Exception as error:  # whatever it is, the device goes on
                logging.getLogger(__name__).exception("connecting failed")
                self._disconnected(SessionError("internal_error", f"connecting failed: {error}"))
                self._pause(self._backoff.next_s())
                continue
            if self._closing:
                connection.close(timeout_s=0)
                return
            try:
                if not self._resume(connection):
                    continue
                why = self._serve(connection)
                if why.reason == FORKED:
                    connection.close(timeout_s=0)  # no result may come under the old numbers
                    self.answers.renumber()
            except FeatherwireError as error:
                why = error
            finally:
                if not self._closing:
                    self._disconnected(None)
                    connection.close(timeout_s=0)
            if self._closing:
                return
            self._disconnected(why)
            if self._fatal is not None:
                return
            self._pause(self._backoff.next_s())

    def _disconnected(self, error: FeatherwireError | None) -> None:
        with self._changed:
            if self._connection is not None:
                self._down_since = time.monotonic()
            self._connection = self.answers.connection = None
            self._attempted = True
            self._last_error = error or self._last_error
            if error is not None and error.reason in FATAL_REASONS:
                self._fatal = error
            self._rate.lost()
            self._changed.notify_all()
        if error is not None:
            self.failing(error)

    def _pause(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while not self._closing and (left_s := until - time.monotonic()) > 0:
            self._tend()
            self._wake.wait(min(left_s, EXPIRE_S))
            self._wake.clear()

    def _tend(self) -> None:
        """What must be done now and then, stream or not."""
        self._spool.expire()
        with self._changed:
            self.answers.take_dropped()

    def _resume(self, connection: Connection) -> bool:
        """Take what the server says it has as acknowledged; False: its numbering is not ours."""
        accepted = connection.welcome.resume_after_sequence
        welcome = connection.welcome
        taken_at = (
            welcome.resume_captured_at.ToMicroseconds() / 1e6
            if welcome.HasField("resume_captured_at")
            else None
        )
        if accepted > self._spool.last_sequence or not self._is_ours(accepted, taken_at):
            connection.close(timeout_s=0)  # no result may come any more under the old numbers
            self.answers.renumber()
            return False
        now = time.monotonic()
        for sequence in self._spool.acknowledge_through(accepted):
            self.acknowledged(sequence)
        with self._changed:
            self._connection = self.answers.connection = connection
            self.answers.connected_at = now
            self._cursor = 0
            self._last_error = None
            self._attempted = True
            self._changed.notify_all()
        self._key_frames.begin(
            accepted=accepted,
            takes_predicted=connection.welcome.takes_predicted,
            needs_key_frame=connection.welcome.needs_key_frame,
        )
        self._told.clear()
        self._tell(None)
        agreed = {
            "takes_predicted": connection.welcome.takes_predicted,
            "bundle": connection.framer.photo_encoder.bundle.id,
            "format_version": connection.format_version,
        }
        for name, value in agreed.items():
            if self._spool.setting(name) != value:
                try:
                    self._spool.keep(name, value)
                except SpoolError as error:
                    logging.getLogger(__name__).warning("warning: %s", error.message)
        return True

    def _is_ours(self, sequence: int, captured_at: float | None) -> bool:
        """Whether what a server has under this number may be the frame that is here: not where its
        picture was taken at another time (seconds since 1970)."""
        here = None if captured_at is None else self._spool.captured_at(sequence)
        return here is None or captured_at is None or abs(here - captured_at) < SAME_S

    def _serve(self, connection: Connection) -> FeatherwireError:
        """Send in order until the stream ends; returns why it did."""
        tended_at = 0.0
        while not self._closing:
            self._wake.clear()
            with self._changed:
                if self.answers.check_session():
                    return SessionError("connection_lost", "the spool began anew")
            if connection.failure is not None:
                return connection.failure
            if self._refused is not None:
                # It is sent again in its place, on another stream, after the delay of the backoff.
                refused, self._refused = self._refused, None
                return refused
            connection.beat()
            if time.monotonic() - tended_at > EXPIRE_S:
                self._tend()
                stats = self._spool.stats()
                connection.send_status(stats.frames, stats.payload_bytes)
                tended_at = time.monotonic()
            wait_s = WATCH_S
            if connection.credits > 0 and not connection.draining:
                wait_s = self._send_next(connection)
            if wait_s > 0:
                self._wake.wait(min(wait_s, WATCH_S))
        return SessionError("closed", "this session is closed")

    def _send_next(self, connection: Connection) -> float:
        """Send one frame; returns the seconds after which to look again."""
        waiting = self._spool.next_after(self._cursor)
        if waiting is None:
            return WATCH_S
        wait_s = self._rate.wait_s(waiting.message.ByteSize())
        if wait_s > 0:
            return wait_s
        queued = self._spool.take(waiting.sequence)
        if queued is None:
            return 0.0
        message = queued.message
        with self._changed:  # who puts it has noted by then what more there is of it
            pass
        kept = bool(self._store.sent_bundles(queued.sequence)) or self._store.unfinished(
            queued.sequence
        )
        connection.framer.ask(message, default_tasks=queued.default_tasks, kept=kept)
        framer = connection.framer
        try:
            self._key_frames.for_server(message, framer.version, framer.photo_encoder.at_hand)
            framer.in_version(message)
            self._store.went_out(message)
            future = connection.send_frame(message)
        except SessionError as error:
            if error.reason in {"message_too_large", "format_unsupported", "reference_lost"}:
                self._cursor = queued.sequence
                self._key_frames.lacks(queued.sequence, again=False)
                self.answers.give_up(queued.sequence, error)
                return 0.0
            if error.reason == "no_credit":
                return WATCH_S
            return 0.0 if connection.failure is not None else WATCH_S
        self._cursor = queued.sequence
        self._key_frames.sent(queued.sequence)
        future.add_done_callback(self.answers.sent)
        return 0.0
