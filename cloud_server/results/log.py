"""The log: every accepted frame, and exactly one result of each.

Only this process writes to it (`cloud_server.database.lock`), so ids and cursors are counted here
(`positions`), in the writer's thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, insert, update
from sqlalchemy.dialects import postgresql, sqlite

from cloud_server.cluster.ownership import Ownership
from cloud_server.database import Database
from cloud_server.results import queries
from cloud_server.results.feed import Feed
from cloud_server.results.positions import KnownSession, Positions
from cloud_server.results.records import (
    Filter,
    Record,
    SessionKey,
    Submission,
    Version,
    now_us,
    terms_of,
)
from cloud_server.results.tables import RESULTS, SESSIONS, SUBMISSIONS, TERMS
from shared.errors import SessionError, StorageError
from shared.proto.featherwire.v1 import types_pb2
from shared.wire import error_to_message

PAGE_BYTES = 8 * 2**20
"""Outcomes that are read at once, but for one that is larger."""

CAUGHT_UP_AT_ONCE = 500

PICTURE_NOT_KEPT = error_to_message(
    SessionError(
        "picture_not_kept",
        "the log keeps features, not pictures; ResultService.GetFrame makes the picture again",
    )
)
"""In the record of a result that had a picture."""

# What there is one row of, however often it is added.
_ONCE = {
    SUBMISSIONS.name: ["session_id", "sequence", "number"],
    RESULTS.name: ["submission_id"],
}


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a frame that was sent: ``new``, or known, with its result once there is one.

    ``submission`` is None for a frame that was processed and forgotten. ``value`` is what ``check``
    returned.
    """

    submission: Submission | None
    new: bool
    record: Record | None = None
    value: Any = None


class ResultLog:
    """The log of one server. Its calls are awaited on one event loop."""

    def __init__(self, database: Database, *, window: int, feed: Feed | None = None) -> None:
        """window: frames that may be skipped before a later one; see ``resume_after``.

        Blocks while it reads where the log ends. Raises ``StorageError``.
        """
        self.database = database
        self.added_bytes = 0
        """Messages and outcomes that this process has added."""
        self.ownership = None if database.turn is None else Ownership(database.turn.server)
        """Of sessions, where servers share the log."""
        self.positions = Positions(database.writer, window, self.ownership)
        """For retention; in the writer's thread."""
        database.writer.run(self.positions.begin)
        self.feed = feed or Feed()
        self.feed.start(self.positions.next_cursor - 1)
        self.recorded: Callable[[Record], None] = self.feed.publish
        """What is told of records of this server; where servers share the log, all of them come
        to the feed by ``catch_up``."""
        self._catching_up = asyncio.Lock()
        insert_ = sqlite.insert if database.is_sqlite else postgresql.insert
        self._unless_there = {
            table.name: insert_(table)
            .on_conflict_do_nothing(index_elements=_ONCE[table.name])
            .execution_options(preserve_rowcount=True)
            for table in (SUBMISSIONS, RESULTS)
        }

    # -- frames in -------------------------------------------------------------------------------

    async def accept(
        self,
        key: SessionKey,
        sequence: int,
        version: Version,
        message: bytes,
        *,
        captured_us: int | None = None,
        outcome: types_pb2.FrameOutcome | None = None,
    ) -> Accepted:
        """Keep a frame; it is durable when this returns. Raises ``StorageError``.

        With an ``outcome`` that is known already, the result of a new frame is recorded with it.
        """
        kept = None if outcome is None else _kept(outcome)

        def change(connection: Connection) -> Accepted:
            session = self.positions.session(connection, key)
            if sequence > session.floor:
                row = self._row(session, sequence, 0, version, message, captured_us)
                if self._add(connection, SUBMISSIONS, row):
                    submission = _submission(key, row)
                    record = None
                    if kept is not None:
                        record = self._record(connection, session, submission, *kept)
                    return Accepted(submission, new=True, record=record)
            return self._known(connection, key, session, sequence, version)

        def publish(accepted: Accepted) -> None:
            if accepted.new and accepted.record is not None:
                self.recorded(accepted.record)

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
            session = self.positions.session(connection, key)
            first = queries.submission(connection, key, session.id, sequence)
            bundle_id = version[0] or (first.version[0] if first is not None else b"")
            whole = (bundle_id, version[1])
            known = self._known(connection, key, session, sequence, whole)
            if known.submission is not None and known.submission.version == whole:
                return known
            messages = queries.messages(connection, session.id, sequence)
            value = check(messages)
            row = self._row(session, sequence, len(messages), whole, message, None)
            if not self._add(connection, SUBMISSIONS, row):
                raise StorageError("conflict", f"frame {sequence} was refined by another server")
            return Accepted(_submission(key, row), new=True, value=value)

        return await self.database.write(change)

    # -- results in ------------------------------------------------------------------------------

    async def complete(self, submission: Submission, outcome: types_pb2.FrameOutcome) -> Record:
        """Record the result, its picture left out, and tell those who follow.

        The one that was recorded before when there is one. Raises ``StorageError``.
        """
        data, terms = _kept(outcome)

        def change(connection: Connection) -> Record:
            session = self.positions.session(connection, submission.key)
            return self._record(connection, session, submission, data, terms)

        return await self.database.write(change, lambda record: self.recorded(record))

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
                for record in page.records:
                    self.feed.publish(record)
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
        self, wanted: Filter, after: int, limit: int, max_bytes: int = PAGE_BYTES
    ) -> queries.Page:
        """Records after a cursor; see ``queries.page``. Raises ``StorageError``."""
        return await self.database.read(
            lambda connection: queries.page(connection, wanted, after, limit, max_bytes)
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

    # -- in the writer's thread ------------------------------------------------------------------

    def _row(
        self,
        session: KnownSession,
        sequence: int,
        number: int,
        version: Version,
        message: bytes,
        captured_us: int | None,
    ) -> dict[str, Any]:
        return {
            "id": self.positions.next_submission,
            "session_id": session.id,
            "sequence": sequence,
            "number": number,
            "bundle": version[0],
            "state": version[1],
            "captured_at": captured_us,
            "received_at": now_us(),
            "attempts": 0,
            "message_bytes": len(message),
            "message": message,
        }

    def _record(
        self,
        connection: Connection,
        session: KnownSession,
        submission: Submission,
        data: bytes,
        terms: frozenset[str],
    ) -> Record:
        """Add a result; the one that was there when there is one."""
        record = Record(
            self.positions.next_cursor,
            submission.key,
            submission.sequence,
            submission.version,
            session.last_result_id + 1,
            submission.captured_us,
            now_us(),
            data,
            terms,
        )
        if not self._add(connection, RESULTS, _result_row(submission, session, record)):
            return queries.record_of(connection, submission.id)
        if terms:
            rows = [{"term": term, "cursor": record.cursor} for term in sorted(terms)]
            connection.execute(insert(TERMS), rows)
        session.last_result_id += 1
        self.positions.next_cursor += 1
        return record

    def _add(self, connection: Connection, table: Table, row: dict[str, Any]) -> bool:
        """Whether the row was new."""
        done = connection.execute(self._unless_there[table.name], row)
        added = done.rowcount == 1
        if added:
            self.added_bytes += row.get("message_bytes", 0) + row.get("outcome_bytes", 0)
            if table is SUBMISSIONS:
                self.positions.next_submission += 1
        return added

    def _known(
        self,
        connection: Connection,
        key: SessionKey,
        session: KnownSession,
        sequence: int,
        version: Version,
    ) -> Accepted:
        submission = queries.submission(connection, key, session.id, sequence, version)
        if submission is None:
            return Accepted(None, new=False)
        return Accepted(submission, False, queries.record_or_none(connection, submission.id))


def _kept(outcome: types_pb2.FrameOutcome) -> tuple[bytes, frozenset[str]]:
    """What the log keeps of an outcome, all but its picture, and what filters find it by."""
    if outcome.HasField("picture"):
        whole, outcome = outcome, types_pb2.FrameOutcome()
        outcome.CopyFrom(whole)
        outcome.ClearField("picture")
        outcome.picture_error.CopyFrom(PICTURE_NOT_KEPT)
    return outcome.SerializeToString(), terms_of(outcome)


def _submission(key: SessionKey, row: dict[str, Any]) -> Submission:
    version = (row["bundle"], row["state"])
    return Submission(row["id"], key, row["sequence"], row["number"], version, row["captured_at"])


def _result_row(submission: Submission, session: KnownSession, record: Record) -> dict[str, Any]:
    return {
        "cursor": record.cursor,
        "submission_id": submission.id,
        "session_id": session.id,
        "sequence": record.sequence,
        "bundle": record.version[0],
        "state": record.version[1],
        "result_id": record.result_id,
        "captured_at": record.captured_us,
        "completed_at": record.completed_us,
        "outcome_bytes": len(record.outcome),
        "outcome": record.outcome,
    }
