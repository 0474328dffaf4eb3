"""The log: every accepted frame, and exactly one result of each.

Only this process writes to it (`cloud_server.database.lock`), so ids and cursors are counted here
(`positions`), in the writer's thread, which adds the rows (`adding`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, update

from cloud_server.cluster.ownership import Ownership
from cloud_server.database import Database
from cloud_server.results import queries
from cloud_server.results.adding import Rows, kept
from cloud_server.results.feed import Feed
from cloud_server.results.positions import Positions
from cloud_server.results.records import (
    Accepted,
    Filter,
    NewFrame,
    Record,
    SessionKey,
    Submission,
    Version,
    now_us,
)
from cloud_server.results.tables import SESSIONS, SUBMISSIONS
from shared.proto.featherwire.v1 import types_pb2

PAGE_BYTES = 8 * 2**20
"""Outcomes that are read at once, but for one that is larger."""

CAUGHT_UP_AT_ONCE = 500


class ResultLog:
    """The log of one server. Its calls are awaited on one event loop."""

    def __init__(self, database: Database, *, window: int, feed: Feed | None = None) -> None:
        """window: frames that may be skipped before a later one; see ``resume_after``.

        Blocks while it reads where the log ends. Raises ``StorageError``.
        """
        self.database = database
        self.ownership = None if database.turn is None else Ownership(database.turn.server)
        """Of sessions, where servers share the log."""
        self.positions = Positions(database.writer, window, self.ownership)
        """For retention; in the writer's thread."""
        database.writer.run(self.positions.begin)
        self.feed = feed or Feed()
        self.feed.start(self.positions.next_cursor - 1)
        self.recorded: Callable[[Sequence[Record]], None] = self.feed.publish
        """What is told of records of this server; where servers share the log, all of them come
        to the feed by ``catch_up``."""
        self._catching_up = asyncio.Lock()
        self._rows = Rows(self.positions, is_sqlite=database.is_sqlite)

    @property
    def added_bytes(self) -> int:
        """Messages and outcomes that this process has added."""
        return self._rows.added_bytes

    # -- frames in -------------------------------------------------------------------------------

    async def accept(self, key: SessionKey, frames: Sequence[NewFrame]) -> list[Accepted]:
        """Keep frames, all in one commit; they are durable when this returns.

        What became of each, in their order: of several with one sequence the first is kept. Raises
        ``StorageError``; then none is kept.
        """

        def change(connection: Connection) -> list[Accepted]:
            return self._rows.frames(connection, key, frames)

        def publish(accepted: list[Accepted]) -> None:
            self.recorded([one.record for one in accepted if one.new and one.record is not None])

        return await self.database.write(change, publish)

    async def accept_refinement(
        self,
        key: SessionKey,
        sequence: int,
        version: Version,
        message: bytes,
        check: Callable[[Sequence[bytes]], Any],
    ) -> Accepted:
        """Keep a refinement of a frame that is kept; no bundle in ``version`` is the frame's first.

        ``check`` gets the messages of the frame so far, none when it was forgotten or never came,
        and raises a ``FeatherwireError`` when this one does not follow on them; then nothing is
        kept. Raises that, or ``StorageError``.
        """

        def change(connection: Connection) -> Accepted:
            return self._rows.refinement(connection, key, sequence, version, message, check)

        return await self.database.write(change)

    # -- results in ------------------------------------------------------------------------------

    async def complete(self, submission: Submission, outcome: types_pb2.FrameOutcome) -> Record:
        """Record the result, its picture left out, and tell those who follow.

        The one that was recorded before when there is one. Raises ``StorageError``.
        """
        data, terms = kept(outcome)

        def change(connection: Connection) -> Record:
            return self._rows.result(connection, submission, data, terms)

        return await self.database.write(change, lambda record: self.recorded([record]))

    # -- out -------------------------------------------------------------------------------------

    async def resume_after(self, key: SessionKey, seen: int = 0) -> tuple[int, int]:
        """Up to which sequence every frame was accepted, and the session's last result; 0: none.

        ``seen`` is the last result that the device knows: results of a session that is not known,
        or no longer, are numbered behind it. A missing frame counts as skipped for good once one
        that is ``window`` later has come.
        """

        def change(connection: Connection) -> tuple[int, int]:
            session = self.positions.session(connection, key, seen, take=True)
            connection.execute(
                update(SESSIONS).where(SESSIONS.c.id == session.id).values(last_seen_at=now_us())
            )
            self.positions.raise_floor(connection, session)
            return session.floor, session.last_result_id

        return await self.database.write(change)

    async def results_after(self, key: SessionKey, result_id: int, limit: int) -> list[Record]:
        """The session's results with a larger number, in order. Raises ``StorageError``."""
        return await self.database.read(
            lambda connection: queries.results_after(connection, key, result_id, limit)
        )

    async def taken(self, key: SessionKey) -> list[Submission]:
        """Unfinished submissions of a session that ``resume_after`` took from another server."""
        if self.ownership is None or not self.ownership.taken:
            return []
        taken = self.ownership.taken

        def query(connection: Connection) -> tuple[int, list[Submission]]:
            row = connection.execute(queries.session_by_key(key)).one_or_none()
            if row is None or row.id not in taken:
                return 0, []
            return row.id, queries.pending(connection, [row.id])

        session_id, unfinished = await self.database.read(query)
        taken.discard(session_id)
        return unfinished

    async def catch_up(self) -> None:
        """Put into the feed what any server has recorded. Raises ``StorageError``."""
        if self.ownership is None:
            return
        async with self._catching_up:
            end = False
            while not end:
                page = await self.read(Filter(), self.feed.last, CAUGHT_UP_AT_ONCE)
                self.feed.publish(page.records)
                end = page.end

    async def pending(self) -> list[Submission]:
        """Submissions without a result, oldest first."""
        return await self.database.read(queries.pending)

    async def attempt(self, submission: Submission) -> tuple[int, list[bytes]]:
        """Count one more attempt at a result; returns their number, and the frame's messages up to
        this submission's own."""

        def change(connection: Connection) -> tuple[int, list[bytes]]:
            row = connection.execute(
                update(SUBMISSIONS)
                .where(SUBMISSIONS.c.id == submission.id)
                .values(attempts=SUBMISSIONS.c.attempts + 1)
                .returning(SUBMISSIONS.c.attempts, SUBMISSIONS.c.session_id)
            ).one()
            messages = queries.messages(connection, row.session_id, submission.sequence)
            return row.attempts, messages[: submission.number + 1]

        return await self.database.write(change)

    async def read(
        self,
        wanted: Filter,
        after: int,
        limit: int,
        max_bytes: int = PAGE_BYTES,
        *,
        before: int | None = None,
    ) -> queries.Page:
        """Records after a cursor; see ``queries.page``. Raises ``StorageError``."""
        return await self.database.read(
            lambda one: queries.page(one, wanted, after, limit, max_bytes, before=before)
        )

    async def record_at(self, cursor: int) -> Record | None:
        """The record of that cursor."""
        return await self.database.read(lambda one: queries.record_at(one, cursor))

    async def record_of_frame(self, key: SessionKey, sequence: int) -> Record | None:
        """The newest record of a frame."""
        return await self.database.read(lambda one: queries.record_of_frame(one, key, sequence))

    async def frame_messages(self, key: SessionKey, sequence: int) -> list[bytes]:
        """A frame's messages as they were received, its refinements behind it; none: not kept."""
        return await self.database.read(lambda one: queries.frame_messages(one, key, sequence))

    async def forgotten_cursor(self) -> int:
        """Records up to here were forgotten."""
        return await self.database.read(queries.forgotten_cursor)
