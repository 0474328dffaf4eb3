"""What a spool knows beside its frames: session, numbering, clock, counts, and what was dropped.

All of it is in the file too, and read from there when it is opened, or replaced after damage.
"""

from __future__ import annotations

import json
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_client.spool.clock import SpoolClock, Uptime, UptimeSource, system_uptime
from edge_client.spool.room import Row, SpoolLimits, SpoolPolicy, drop_old
from edge_client.spool.store import Store
from shared.errors import SpoolError


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame that will not be sent, and why."""

    sequence: int
    source: str
    error: SpoolError


class Ledger(Store):
    """Of one session; the spool puts frames into it and takes them out."""

    def __init__(
        self, folder: Path, limits: SpoolLimits | None, uptime: UptimeSource = system_uptime
    ) -> None:
        """Use ``open``."""
        self._given_limits = limits
        self._limits = limits or SpoolLimits()
        self._uptime = uptime
        self._dropped: list[Dropped] = []
        # What could not be written, because the disk is full: done with the next write.
        self._undone: dict[int, str] = {}
        self._finished: set[int] = set()
        self._bytes = 0
        self._last_sequence = 0
        self._last_result = 0
        super().__init__(folder)
        self._load()

    # -- facts -----------------------------------------------------------------------------------

    @property
    def session(self) -> str:
        """Name of the session that the frames belong to; another one after damage or ``renew``."""
        return self._session

    @property
    def last_sequence(self) -> int:
        """The highest sequence that was given to a frame."""
        return self._last_sequence

    def setting(self, name: str) -> Any:
        """A JSON value that was kept with ``keep``; None when there is none."""
        with self._lock:
            return json.loads(self._meta(f"setting.{name}", "null"))

    def keep(self, name: str, value: Any) -> None:
        """Keep a JSON value over restarts. Raises ``SpoolError``."""

        def write() -> None:
            self._set(f"setting.{name}", json.dumps(value))

        self._write(write, durable=True)

    def take_dropped(self) -> list[Dropped]:
        """Frames that were dropped since the last call."""
        with self._lock:
            dropped, self._dropped = self._dropped, []
            return dropped

    @property
    def last_result_seen(self) -> int:
        """Every result up to this number was handed to the caller."""
        return self._last_result

    # -- in the file -----------------------------------------------------------------------------

    def _load(self) -> None:
        self._undone.clear()
        self._finished.clear()
        saved = Counter(json.loads(self._meta("counts", "{}")))
        saved["damaged_files"] += self._counts["damaged_files"]
        self._counts = +saved
        at = Uptime(str(self._meta("clock_boot", "")), float(self._meta("clock_uptime_s", 0.0)))
        self._clock = SpoolClock(self._uptime, float(self._meta("clock_s", 0.0)), at)
        self._session = str(self._meta("session", ""))
        self._last_sequence = int(self._meta("last_sequence", 0))
        self._last_result = int(self._meta("last_result", 0))
        self._seen_above: set[int] = set()
        self._bytes = int(self._rows("SELECT COALESCE(SUM(bytes), 0) FROM frames")[0][0])
        if not self._session:
            self._session = uuid.uuid4().hex
            self._write(lambda: self._set("session", self._session), durable=True)
        saved_limits = json.loads(self._meta("limits", "null"))
        if self._given_limits is None and saved_limits is not None:
            self._limits = SpoolLimits(
                saved_limits["max_bytes"],
                saved_limits["max_age_s"],
                SpoolPolicy(saved_limits["policy"]),
            )
        elif (limits := asdict(self._limits)) != saved_limits:
            self._write_later(lambda: self._set("limits", json.dumps(limits)))

    def _undo(self) -> Callable[[], None]:
        before = (self._bytes, self._last_sequence, Counter(self._counts))
        dropped = len(self._dropped)

        def undo() -> None:
            self._bytes, self._last_sequence, self._counts = before
            del self._dropped[dropped:]

        return undo

    def _committed(self) -> None:
        self._undone.clear()
        self._finished.clear()

    def _after_write(self) -> None:
        at = self._clock.uptime()
        self._set("clock_s", self._clock.now())
        self._set("clock_boot", at.boot)
        self._set("clock_uptime_s", at.seconds)
        self._set("counts", json.dumps(self._counts))

    # -- out of the file -------------------------------------------------------------------------

    def _drop_old(self) -> None:
        if self._limits.max_age_s is None:
            return
        before_s = self._clock.now() - self._limits.max_age_s
        rows = drop_old(self._database, before_s)
        if rows:
            self._bytes = self._rows("SELECT COALESCE(SUM(bytes), 0) FROM frames")[0][0]
            self._count_dropped(rows, "age", f"it waited {self._limits.max_age_s:g} s")

    def _drop_damaged(self, sequence: int, source: str) -> None:
        def write() -> None:
            self._remove(sequence)
            self._count_dropped([(sequence, source)], "damaged", "its bytes were damaged")

        self._write(write, durable=False)

    def _count_dropped(self, rows: list[Row], reason: str, why: str) -> None:
        self._counts[f"dropped_{reason}"] += len(rows)
        for sequence, source in rows:
            error = SpoolError(f"dropped_{reason}", f"frame {sequence} was dropped: {why}")
            self._dropped.append(Dropped(sequence, source, error))

    def _remove(self, sequence: int) -> int:
        rows = self._rows("SELECT bytes FROM frames WHERE sequence = ?", sequence)
        self._database.execute("DELETE FROM frames WHERE sequence = ?", sequence)
        self._bytes -= rows[0][0] if rows else 0
        return len(rows)

    def _await_result(self, sequence: int) -> None:
        self._database.execute(
            "INSERT OR IGNORE INTO awaited SELECT sequence, source, bytes FROM frames "
            "WHERE sequence = ?",
            sequence,
        )
        self._count("acknowledged", self._remove(sequence))

    def _before_write(self) -> None:
        for sequence, count in self._undone.items():
            if count == "acknowledged":
                self._await_result(sequence)
            else:
                self._count(count, self._remove(sequence))
                self._database.execute("DELETE FROM awaited WHERE sequence = ?", sequence)

    def _note_result(self, result_id: int) -> bool:
        """Move the mark below which all results were seen; they may come out of order."""
        before = self._last_result
        if result_id > before:
            self._seen_above.add(result_id)
        while self._last_result + 1 in self._seen_above:
            self._last_result += 1
            self._seen_above.remove(self._last_result)
        return self._last_result != before
