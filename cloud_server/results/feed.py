"""The newest records in memory, shared by all who follow the log.

The feed is bounded by records and bytes, however many follow it, and adding to it waits for nobody.
A follower holds a cursor into it; one that the feed has left behind was too slow.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable

from cloud_server.results.records import Record

MAX_RECORDS = 1024
MAX_BYTES = 32 * 2**20


class Feed:
    """Used on the event loop alone. Its cursors have no gaps, but after ``restarts``."""

    def __init__(self, *, max_records: int = MAX_RECORDS, max_bytes: int = MAX_BYTES) -> None:
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._records: deque[Record] = deque()
        self._bytes = 0
        self.last = 0
        """Cursor of the newest record."""
        self.restarts = 0
        """How often records had to be left out: whoever followed reads them from the log."""
        self._grown = asyncio.Event()
        self.closed = False

    def start(self, last: int) -> None:
        """Begin behind this cursor."""
        self.last = last

    def publish(self, records: Iterable[Record]) -> None:
        """Add records that are durable, in order of their cursors."""
        before = self.last
        for record in records:
            self._add(record)
        if self.last != before:
            self._wake()

    def _add(self, record: Record) -> None:
        if record.cursor <= self.last:
            return  # it had been recorded before
        if record.cursor != self.last + 1:
            self._records.clear()
            self._bytes = 0
            self.restarts += 1
        self._records.append(record)
        self._bytes += len(record.outcome)
        while len(self._records) > self._max_records or self._bytes > self._max_bytes:
            self._bytes -= len(self._records.popleft().outcome)
        self.last = record.cursor

    def forget(self, cursor: int) -> None:
        """Drop records up to ``cursor``, which the log has forgotten."""
        while self._records and self._records[0].cursor <= cursor:
            self._bytes -= len(self._records.popleft().outcome)

    def close(self) -> None:
        """Tell those who follow that nothing more will come."""
        self.closed = True
        self._wake()

    @property
    def first(self) -> int:
        """The oldest cursor from which everything newer is here."""
        return self.last - len(self._records)

    def after(self, cursor: int) -> list[Record]:
        """Records behind ``cursor``, which is ``first`` at least."""
        return [self._records[i] for i in range(cursor - self.first, len(self._records))]

    async def more(self, cursor: int, timeout_s: float) -> bool:
        """Wait for a record behind ``cursor``, or the end; False when neither came in time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.last <= cursor and not self.closed:
                    await self._grown.wait()
        except TimeoutError:
            return False
        return True

    def _wake(self) -> None:
        self._grown.set()
        self._grown = asyncio.Event()
