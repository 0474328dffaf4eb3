"""The log: every accepted frame, and exactly one result of each.

Only this process writes to it (`cloud_server.database.lock`), so ids and cursors are counted here,
in the writer's thread; they are read again from the database after a commit has failed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, func, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from cloud_server.database import Database
from cloud_server.results import queries
from cloud_server.results.feed import Feed
from cloud_server.results.records import (
    Filter,
    Record,
    SessionKey,
    Submission,
    Version,
    now_us,
    terms_of,
)
from cloud_server.results.tables import RESULTS, SESSIONS, STATE, SUBMISSIONS, TERMS
from shared.errors import SessionError, StorageError
from shared.proto.featherwire.v1 import types_pb2
from shared.wire import error_to_message

PAGE_BYTES = 8 * 2**20
"""Outcomes that are read at once, but for one that is larger."""

KNOWN_SESSIONS = 4096
"""Sessions that the writer remembers; others are read again."""

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


@dataclass(slots=True)
class _Session:
    id: int
    floor: int
    last_result_id: int


class ResultLog:
    """The log of one server. Its calls are awaited on one event loop."""

    def __init__(self, database: Database, *, window: int, feed: Feed | None = None) -> None:
        """window: frames that may be skipped before a later one; see ``resume_after``.

        Blocks while it reads where the log ends. Raises ``StorageError``.
        """
        self.database = database
        self.window = window
        self.added_bytes = 0
        """Messages and outcomes that this process has added."""
        self._failures_seen = -1
        self._next_submission = 1
        self._next_cursor = 1
        self._next_session = 1
        self._sessions: OrderedDict[SessionKey, _Session] = OrderedDict()
        database.writer.run(self._begin)
        self.feed = feed or Feed()
        self.feed.start(self._next_cursor - 1)
        self._insert = sqlite.insert if database.is_sqlite else postgresql.insert

    # -- frames in -------------------------------------------------------------------------------

    async def accept(
        self,
        key: SessionKey,
        sequence: int,
        version: Version,
        message: bytes,
        *,
        captured_us: int | None = None,
    ) -> Accepted:
        """Keep a frame; it is durable when this returns. Raises ``StorageError``."""

        def change(connection: Connection) -> Accepted:
            session = self._session(connection, key)
            if sequence > session.floor:
                row = self._row(session, sequence, 0, version, message, captured_us)
                if self._add(connection, SUBMISSIONS, row):
                    return Accepted(_submission(key, row), new=True)
            return self._known(connection, key, session, sequence, version)

        return await self.database.write(change)

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
            session = self._session(connection, key)
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
        kept = types_pb2.FrameOutcome()
        kept.CopyFrom(outcome)
        if kept.HasField("picture"):
            kept.ClearField("picture")
            kept.picture_error.CopyFrom(PICTURE_NOT_KEPT)
        data = kept.SerializeToString()
        terms = terms_of(kept)

        def change(connection: Connection) -> Record:
            session = self._session(connection, submission.key)
            record = Record(
                self._next_cursor,
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
            self._next_cursor += 1
            return record

        return await self.database.write(change, self.feed.publish)

    # -- out -------------------------------------------------------------------------------------

    async def resume_after(self, key: SessionKey) -> tuple[int, int]:
        """Up to which sequence every frame was accepted, and the session's last result; 0: none.

        A missing frame counts as skipped for good once one that is ``window`` later has come.
        """

        def change(connection: Connection) -> tuple[int, int]:
            session = self._session(connection, key)
            self._raise_floor(connection, session)
            return session.floor, session.last_result_id

        return await self.database.write(change)

    async def results_after(self, key: SessionKey, result_id: int, limit: int) -> list[Record]:
        """The session's results with a larger number, in order. Raises ``StorageError``."""
        return await self.database.read(
            lambda connection: queries.results_after(connection, key, result_id, limit)
        )

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

    def _begin(self, connection: Connection) -> None:
        """Read again where the log ends, after a commit that failed."""
        failures = self.database.writer.failures
        if failures == self._failures_seen:
            return
        self._sessions.clear()
        forgotten = connection.execute(select(STATE.c.forgotten_cursor)).scalar()
        if forgotten is None:
            connection.execute(insert(STATE).values(id=1, forgotten_cursor=0))
        last = connection.execute(select(func.max(RESULTS.c.cursor))).scalar() or 0
        self._next_cursor = 1 + max(last, forgotten or 0)
        self._next_submission = 1 + _largest(connection, SUBMISSIONS)
        self._next_session = 1 + _largest(connection, SESSIONS)
        self._failures_seen = failures

    def _session(self, connection: Connection, key: SessionKey) -> _Session:
        self._begin(connection)
        session = self._sessions.get(key)
        if session is None:
            session = self._find(connection, key)
            self._sessions[key] = session
            if len(self._sessions) > KNOWN_SESSIONS:
                self._sessions.popitem(last=False)
        else:
            self._sessions.move_to_end(key)
        return session

    def _find(self, connection: Connection, key: SessionKey) -> _Session:
        row = connection.execute(queries.session_by_key(key)).one_or_none()
        if row is not None:
            last = connection.execute(
                select(func.max(RESULTS.c.result_id)).where(RESULTS.c.session_id == row.id)
            ).scalar()
            return _Session(row.id, row.floor, max(last or 0, row.forgotten_result_id))
        session = _Session(self._next_session, 0, 0)
        connection.execute(
            insert(SESSIONS).values(
                id=session.id,
                device=key[0],
                session=key[1],
                first_seen_at=now_us(),
                floor=0,
                forgotten_result_id=0,
            )
        )
        self._next_session += 1
        return session

    def _raise_floor(self, connection: Connection, session: _Session) -> None:
        floor = queries.floor(connection, session.id, session.floor, self.window)
        if floor > session.floor:
            connection.execute(
                update(SESSIONS).where(SESSIONS.c.id == session.id).values(floor=floor)
            )
            session.floor = floor

    def raise_floors(self, connection: Connection, session_ids: Sequence[int]) -> None:
        """Bring these sessions' floors up to date; for retention, in the writer's thread."""
        self._begin(connection)
        by_id = {session.id: session for session in self._sessions.values()}
        for session_id in session_ids:
            session = by_id.get(session_id)
            if session is None:
                floor = connection.execute(
                    select(SESSIONS.c.floor).where(SESSIONS.c.id == session_id)
                ).scalar_one()
                session = _Session(session_id, floor, 0)
            self._raise_floor(connection, session)

    def _row(
        self,
        session: _Session,
        sequence: int,
        number: int,
        version: Version,
        message: bytes,
        captured_us: int | None,
    ) -> dict[str, Any]:
        return {
            "id": self._next_submission,
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

    def _add(self, connection: Connection, table: Table, row: dict[str, Any]) -> bool:
        """Whether the row was new."""
        unless = self._insert(table).on_conflict_do_nothing(index_elements=_ONCE[table.name])
        done = connection.execute(unless, row, execution_options={"preserve_rowcount": True})
        added = done.rowcount == 1
        if added:
            self.added_bytes += row.get("message_bytes", 0) + row.get("outcome_bytes", 0)
            if table is SUBMISSIONS:
                self._next_submission += 1
        return added

    def _known(
        self,
        connection: Connection,
        key: SessionKey,
        session: _Session,
        sequence: int,
        version: Version,
    ) -> Accepted:
        submission = queries.submission(connection, key, session.id, sequence, version)
        if submission is None:
            return Accepted(None, new=False)
        return Accepted(submission, False, queries.record_or_none(connection, submission.id))


def _largest(connection: Connection, table: Table) -> int:
    return connection.execute(select(func.max(table.c.id))).scalar() or 0


def _submission(key: SessionKey, row: dict[str, Any]) -> Submission:
    version = (row["bundle"], row["state"])
    return Submission(row["id"], key, row["sequence"], row["number"], version, row["captured_at"])


def _result_row(submission: Submission, session: _Session, record: Record) -> dict[str, Any]:
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
