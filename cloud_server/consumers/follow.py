"""One subscriber: what the log has, then what comes, in order.

    replaying ──has come to the feed──> following ──left behind by the feed──> cut off
        ▲                                  │
        └──────── the feed restarted ──────┘

Ingest waits for no subscriber: while following, all of them read the one bounded feed, and one that
it has left behind is told its cursor and cut off.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from cloud_server.results.log import ResultLog
from cloud_server.results.records import Filter, Record
from shared.errors import SessionError
from shared.proto.featherwire.v1 import results_pb2

REPLAYED_AT_ONCE = 100
FOLLOWED_AT_ONCE = 16
POSITION_EVERY_S = 15.0

Write = Callable[[results_pb2.SubscribeResultsResponse], Awaitable[None]]


class Follower:
    """Sends a subscriber its records; ``position`` is the cursor that it may go on from."""

    def __init__(
        self, log: ResultLog, wanted: Filter, write: Write, *, write_timeout_s: float
    ) -> None:
        self._log = log
        self._wanted = wanted
        self._write = write
        self._write_timeout_s = write_timeout_s
        # What was said of the position, once the replay was done.
        self._told: int | None = None
        self._told_at = 0.0
        self.position = 0
        self.stuck = False
        """A write has not come to its end, so that nothing more can be written."""

    async def run(self, after: int | None) -> None:
        """Until the subscriber is gone. ``after``: None starts with new records.

        Raises ``SessionError``: cursor_expired, unknown_cursor, slow_subscriber, draining; its
        details have the cursor to subscribe with. And ``StorageError``.
        """
        feed = self._log.feed
        await self._log.catch_up()
        self.position = feed.last if after is None else after
        if self.position > feed.last:
            raise SessionError(
                "unknown_cursor",
                f"the log ends at cursor {feed.last}: {self.position} is of another log",
                cursor=feed.last,
            )
        if self.position == 0:
            self.position = await self._log.forgotten_cursor()
        while True:
            restarts = feed.restarts
            await self._replay()
            await self._follow(restarts)

    async def _replay(self) -> None:
        while self.position < self._log.feed.first:
            page = await self._log.read(self._wanted, self.position, REPLAYED_AT_ONCE)
            if page.forgotten > self.position:
                raise SessionError(
                    "cursor_expired",
                    f"records up to cursor {page.forgotten} are no longer kept",
                    cursor=page.forgotten,
                )
            for record in page.records:
                await self._send(record)
            self.position = page.position
            self._raise_if_closed()

    async def _follow(self, restarts: int) -> None:
        """Until the feed restarts."""
        feed = self._log.feed
        while True:
            self._raise_if_closed()
            if self.position < feed.first:
                if feed.restarts != restarts:
                    return
                raise self._too_slow("fell behind the newest records")
            for record in feed.after(self.position)[:FOLLOWED_AT_ONCE]:
                if self._wanted.matches(record):
                    await self._send(record)
                self.position = record.cursor
            if self._told is None:
                if self.position == feed.last:
                    await self._tell_position()  # this is the end of the replay
            elif time.monotonic() - self._told_at > POSITION_EVERY_S and self._told < self.position:
                await self._tell_position()
            await feed.more(self.position, POSITION_EVERY_S)

    # -- to the subscriber -----------------------------------------------------------------------

    async def _send(self, record: Record) -> None:
        await self._write_in_time(results_pb2.SubscribeResultsResponse(record=record.to_message()))
        self.position = record.cursor
        if self._told is not None:
            self._told = record.cursor
            self._told_at = time.monotonic()

    async def _tell_position(self) -> None:
        await self._write_in_time(results_pb2.SubscribeResultsResponse(position=self.position))
        self._told = self.position
        self._told_at = time.monotonic()

    async def _write_in_time(self, response: results_pb2.SubscribeResultsResponse) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await self._write(response)
        except TimeoutError:
            self.stuck = True
            raise self._too_slow(f"read nothing for {self._write_timeout_s:g} s") from None

    def _too_slow(self, what: str) -> SessionError:
        return SessionError(
            "slow_subscriber",
            f"the subscriber {what}; subscribe again after cursor {self.position}",
            cursor=self.position,
        )

    def _raise_if_closed(self) -> None:
        if self._log.feed.closed:
            raise SessionError("draining", "this server is about to stop", cursor=self.position)
