"""The spool's file, and what of it is in memory: both change together, or neither does.

A damaged file is moved aside, and another one takes its place; a full disk is no end.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from edge_client.spool.clock import SpoolClock, Uptime, UptimeSource
from edge_client.spool.database import Damaged, move_aside, open_healed
from edge_client.spool.groups import Newest
from edge_client.spool.room import Dropped
from shared.errors import SpoolError

T = TypeVar("T")


class SpoolFile:
    """Transactions on the file. ``lock`` is held in each, and by whoever reads more than once.

    What is public beside them is in memory, and goes back where a transaction fails: ``counts`` by
    reason, ``bytes`` of the queued messages, the ``newest`` frame that was put, ``last_sequence``,
    and the frames that were ``dropped`` and not yet told.
    """

    def __init__(
        self,
        folder: Path,
        uptime: UptimeSource,
        *,
        opened: Callable[[], None],
        first: Callable[[], None],
        committed: Callable[[], None],
    ) -> None:
        """Call ``load`` next. opened: called when another file has taken the place of a damaged
        one, and was loaded. first: the first thing of every transaction. committed: after each
        that was.

        Raises as ``Database`` does, but for damage.
        """
        self.folder = folder
        self.lock = threading.RLock()
        self.bytes = 0
        self.last_sequence = 0
        self.newest: Newest | None = None
        self.dropped: list[Dropped] = []
        self._uptime = uptime
        self._opened = opened
        self._first = first
        self._committed = committed
        self._writing = False
        self.database, damaged = open_healed(folder)
        self.counts: Counter[str] = Counter(damaged_files=damaged)

    def close(self) -> None:
        """Close the file; other processes may open it then."""
        with self.lock:
            self.database.close()

    def load(self) -> None:
        """Read what is in memory from a file that was just opened."""
        self.newest = None
        saved = Counter(json.loads(self.meta("counts", "{}")))
        saved["damaged_files"] += self.counts["damaged_files"]
        self.counts = +saved
        at = Uptime(str(self.meta("clock_boot", "")), float(self.meta("clock_uptime_s", 0.0)))
        self.clock = SpoolClock(self._uptime, float(self.meta("clock_s", 0.0)), at)
        self.last_sequence = int(self.meta("last_sequence", 0))
        self.bytes = self.summed_bytes()

    def summed_bytes(self) -> int:
        """``bytes``, as the file has it."""
        return int(self.rows("SELECT COALESCE(SUM(bytes), 0) FROM frames")[0][0])

    # -- reading ----------------------------------------------------------------------------------

    def rows(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """All rows of a SELECT; of a new file where this one turns out to be damaged."""
        try:
            return self.database.rows(statement, *values)
        except Damaged as damage:
            if self._writing:
                raise  # the transaction begins again in a new file
            self._begin_anew(damage)
            return self.database.rows(statement, *values)

    def meta(self, key: str, default: Any) -> Any:
        """A value that ``set`` has kept."""
        rows = self.rows("SELECT value FROM meta WHERE key = ?", key)
        return rows[0][0] if rows else default

    # -- writing ----------------------------------------------------------------------------------

    def set(self, key: str, value: object) -> None:
        """Keep a value. Inside a transaction."""
        self.database.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", key, value)

    def count(self, what: str, number: int = 1) -> None:
        """Count what has happened. Inside a transaction, which takes it back if it fails."""
        if number:
            self.counts[what] += number

    def write(self, write: Callable[[], T], *, durable: bool) -> T:
        """Run ``write`` in a transaction, in a new file when this one turns out to be damaged.

        What is not durable frees room, or takes next to none: it may use the reserve.
        """
        with self.lock:
            try:
                result = self._attempt(write, durable=durable)
            except Damaged as damage:
                self._begin_anew(damage)
                try:
                    return self._attempt(write, durable=durable)
                except Damaged as again:
                    raise SpoolError("io_error", f"the spool is damaged: {again}") from None
            except SpoolError as error:
                if error.reason not in {"disk_full", "io_error"}:
                    raise
                self.database.relieve(spend_reserve=not durable)
                result = self._attempt(write, durable=durable)
            if durable:
                self.database.restore_reserve()
            return result

    def write_later(self, write: Callable[[], object]) -> None:
        """Like ``write``, for what a disk that fails may not hinder, and what may be lost."""
        try:
            self.write(write, durable=False)
        except SpoolError as error:
            with self.lock:
                self.counts[f"unwritten_{error.reason}"] += 1

    def _attempt(self, write: Callable[[], T], *, durable: bool) -> T:
        """Commit ``write``, or leave everything as it was."""
        before = (self.bytes, self.last_sequence, Counter(self.counts), self.newest)
        dropped = len(self.dropped)
        self._writing = True
        try:
            with self.database.transaction(durable=durable):
                self._first()
                result = write()
                self._note()
        except BaseException:
            self.bytes, self.last_sequence, self.counts, self.newest = before
            del self.dropped[dropped:]
            raise
        finally:
            self._writing = False
        self._committed()
        return result

    def _note(self) -> None:
        """In every transaction, last: clock and counts."""
        at = self.clock.uptime()
        self.set("clock_s", self.clock.now())
        self.set("clock_boot", at.boot)
        self.set("clock_uptime_s", at.seconds)
        self.set("counts", json.dumps(self.counts))

    def _begin_anew(self, damage: Damaged) -> None:
        """The file was damaged while in use: another one and another session take its place."""
        lost = self.counts["damaged_files"] + 1
        logging.getLogger(__name__).warning("warning: the spool was damaged in use: %s", damage)
        self.database.close()
        where = move_aside(self.folder)
        logging.getLogger(__name__).warning("warning: it is kept as %s", where)
        self.database, damaged = open_healed(self.folder)
        lost += damaged
        self.counts = Counter(damaged_files=lost)
        self.load()
        self._opened()
        self.counts["damaged_files"] = lost
