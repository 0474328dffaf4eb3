"""Frames of a spool that have no result yet, and results that nobody has taken.

A frame's first result is put into an inbox, others of it go nowhere, and it is ticked off in the
spool when the caller has it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from edge_client.session.connection import Connection
from edge_client.session.frames import Origin
from edge_client.session.groups import REFERENCE_REASONS, is_unreadable
from edge_client.session.results import FrameResult, Reply, failed, received
from edge_client.spool import Spool
from shared.errors import FeatherwireError, SpoolError
from shared.wire.failures import is_retryable


@dataclass(frozen=True, slots=True)
class Item:
    """A result on its way to the caller; ``done``: it is the frame's, not a refinement's.

    session: whose numbers it has.
    """

    result: FrameResult
    session: str
    result_id: int = 0
    done: bool = True


@dataclass(slots=True)
class _Open:
    """A frame without a result; times are of ``time.monotonic``, None for what was not yet."""

    source: Any
    acknowledged_at: float | None = None
    deadline_s: float = 60.0
    hard: bool = False


class Unanswered:
    """The frames of a spool that have no result yet, and the results that nobody has taken."""

    def __init__(
        self,
        spool: Spool,
        changed: threading.Condition,
        sent_back: Callable[[FeatherwireError], None],
        unreadable: Callable[[int, bool], None] = lambda sequence, again: None,
        renewed: Callable[[], None] = lambda: None,
    ) -> None:
        """changed: lock of the spool sender, notified when something has changed. sent_back: is
        called, with that lock held, when the server could not take a frame now. unreadable:
        likewise, with the sequence of a frame that the server could not decode, and whether it
        gets it again. renewed: when the session is another one."""
        self._spool = spool
        self._changed = changed
        self._sent_back = sent_back
        self._session = spool.session
        self._unreadable = unreadable
        self._renewed = renewed
        self._inbox: deque[Item] = deque()
        self.connection: Connection | None = None
        """The stream, where there is one. Set with the lock held."""
        self.connected_at = 0.0
        """Since when, by ``time.monotonic``."""
        # By sequence: until when what comes of a command is waited for.
        self._refining: dict[int, float] = {}
        self._open: dict[int, _Open] = {}
        # What frames of the session before are numbered now.
        self._moved: dict[tuple[str, int], int] = {}
        captured = spool.captured()

        def origin(sequence: int, source: str) -> Origin | str:
            at = captured.get(sequence)
            return source if at is None else Origin(source, at)

        for sequence, source in spool.queued().items():
            self._open[sequence] = _Open(origin(sequence, source))
        for sequence, source in spool.awaited().items():
            self._open[sequence] = _Open(origin(sequence, source), time.monotonic())

    # -- for the caller --------------------------------------------------------------------------

    def waiting(self) -> dict[int, Any]:
        """Sources of the frames without a result, by sequence."""
        with self._changed:
            return {sequence: one.source for sequence, one in self._open.items()}

    @property
    def unanswered(self) -> int:
        """Frames without a result."""
        return len(self._open)

    def take(self, wanted: set[int] | None = None) -> Item | None:
        """The next result, of these frames or of any. Call ``handed`` when the caller has it."""
        with self._changed:
            for item in self._inbox:
                if wanted is None or item.result.sequence in wanted:
                    self._inbox.remove(item)
                    return item
            return None

    def owes_refinement(self, wanted: set[int] | None) -> bool:
        """Whether the server has asked for more of frames whose first result is here."""
        now = time.monotonic()
        with self._changed:
            return any(
                until > now for s, until in self._refining.items() if wanted is None or s in wanted
            )

    def handed(self, item: Item) -> None:
        """The caller has this result: it will not come again, not even after a restart."""
        with self._changed:
            sequence, result_id = item.result.sequence, item.result_id
            if item.session != self._spool.session:  # another frame has that number by now
                sequence, result_id = self._moved.get((item.session, sequence), 0), 0
            if item.done and sequence:
                self._spool.finish(sequence, result_id)
            elif result_id:
                self._spool.note_result(result_id)

    def wait(self, timeout_s: float) -> None:
        """Wait until something has changed."""
        with self._changed:
            self._changed.wait(timeout_s)

    # -- what a stream brings --------------------------------------------------------------------

    def expect(self, sequence: int, source: Any, deadline_s: float, *, hard: bool = False) -> None:
        """A frame is in the spool, and will have a result. The lock is held."""
        self._open[sequence] = _Open(source, deadline_s=deadline_s, hard=hard)

    def acknowledged(self, sequence: int) -> None:
        """The server has this frame: its deadline begins."""
        with self._changed:
            if (one := self._open.get(sequence)) is not None:
                one.acknowledged_at = time.monotonic()

    def answered(self, reply: Reply) -> None:
        """The first result of a frame goes into the inbox; others of it go nowhere."""
        error = reply.outcome.error
        with self._changed:
            here = self._open.get(reply.sequence)
            untaken = reply.result_id == 0 and here is not None and here.acknowledged_at is None
            if error is not None:
                again = untaken and (is_retryable(error) or error.reason in REFERENCE_REASONS)
                if is_unreadable(error):
                    self._unreadable(reply.sequence, again)
                if again:
                    self._sent_back(error)
                    return
            one = self._open.pop(reply.sequence, None)
            if one is not None:
                self._inbox.append(
                    Item(received(reply, one.source), self._session, reply.result_id)
                )
                if reply.refinement is not None:
                    before = self._inbox[-1].result
                    self._refining[reply.sequence] = time.monotonic() + one.deadline_s
                    reply.refinement.add_done_callback(
                        lambda future: self._refined(future, one.source, before)
                    )
            elif reply.result_id:
                self._spool.note_result(reply.result_id)
            self._changed.notify_all()

    def sent(self, future: Future[Reply]) -> None:
        """A frame's reply is here, or its stream was lost: then the spool has it still."""
        if future.cancelled() or future.exception() is not None:
            return
        self.answered(future.result())

    def _refined(self, future: Future[Reply], source: Any, before: FrameResult) -> None:
        with self._changed:
            self._refining.pop(before.sequence, None)
            self._changed.notify_all()
        if future.cancelled():
            return
        error = future.exception()
        if error is None:
            reply = future.result()
            found = received(reply, source, before=before)
            item = Item(found, self._session, reply.result_id, done=False)
        elif isinstance(error, FeatherwireError) and error.reason != "not_refinable":
            lost = failed(source, error, sequence=before.sequence, before=before)
            item = Item(lost, self._session, done=False)
        else:
            return
        with self._changed:
            self._inbox.append(item)
            self._changed.notify_all()

    def give_up(self, sequence: int, error: FeatherwireError) -> None:
        """A result will not come any more."""
        with self._changed:
            self._fail(sequence, error)

    def late(self) -> list[tuple[int, float]]:
        """Frames that the server has had for longer than their deadline, and that deadline.

        Time without a stream does not count, nor time before a busy server last said that it has
        frames of ours.
        """
        now = time.monotonic()
        with self._changed:
            stream = self.connection
            if stream is None:
                return []

            def late(one: _Open) -> bool:
                if one.acknowledged_at is None:
                    return False
                since = max(one.acknowledged_at, self.connected_at)
                return now - stream.time_of(since, hard=one.hard) > one.deadline_s

            return [(sequence, one.deadline_s) for sequence, one in self._open.items() if late(one)]

    def _fail(self, sequence: int, error: FeatherwireError) -> None:
        one = self._open.pop(sequence, None)
        if one is not None:
            self._inbox.append(Item(failed(one.source, error, sequence=sequence), self._session))
            self._changed.notify_all()

    def take_dropped(self) -> None:
        """Frames that the spool had to drop have an error for a result. The lock is held."""
        for dropped in self._spool.take_dropped():
            logging.getLogger(__name__).warning("warning: %s", dropped.error.message)
            self._fail(dropped.sequence, dropped.error)

    # -- when the numbering is another one -------------------------------------------------------

    def renumber(self) -> None:
        """The server knows more of this session than the spool: a new one begins."""
        with self._changed:
            numbers = {old: new for new, old in enumerate(sorted(self._spool.queued()), 1)}
            before_session, self._session = self._session, self._spool.renew()
            self._moved = {(before_session, old): new for old, new in numbers.items()}
            self._renewed()
            before, self._open = self._open, {}
            for sequence, one in before.items():
                if sequence in numbers:
                    self._open[numbers[sequence]] = one
                else:
                    lost = SpoolError("session_renewed", "its result can no longer be asked for")
                    self._inbox.append(Item(failed(one.source, lost), self._session, done=False))
            self._changed.notify_all()

    def check_session(self) -> bool:
        """After damage the spool has another session, and nothing of the one before; whether that
        has happened. The lock is held."""
        if self._spool.session == self._session:
            return False
        self._session = self._spool.session
        self._renewed()
        for one in self._open.values():
            lost = SpoolError("damaged", "the spool was damaged, and the frame was in it")
            self._inbox.append(Item(failed(one.source, lost), self._session, done=False))
        self._open.clear()
        self._changed.notify_all()
        return True
