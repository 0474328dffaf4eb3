"""The log: every accepted frame, and exactly one result of each.

Only this process writes to it, or one server at a time (`cloud_server.database.locks`), so ids and
cursors are counted here (`sequence_counters`), in the writer's thread, which adds the rows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Sequence
from typing import Any

from sqlalchemy import Connection, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from cloud_server.database import Database
from cloud_server.database.schema import RESULTS, SESSIONS, SUBMISSIONS, TERMS, now_us
from cloud_server.database.writer import BulkInsert, Row
from cloud_server.results import queries
from cloud_server.results.feed import Feed
from cloud_server.results.records import (
    Accepted,
    Filter,
    NewFrame,
    Record,
    SessionKey,
    Submission,
    Version,
    terms_of,
)
from cloud_server.results.sequence_counters import KnownSession, Ownership, SequenceCounters
from shared.errors import SessionError, StorageError
from shared.proto.featherwire.v1 import types_pb2
from shared.wire import error_to_message
from shared.wire.requests import MAX_SEQUENCE

PAGE_BYTES = 8 * 2**20
"""Outcomes that are read at once, but for one that is larger."""

CAUGHT_UP_AT_ONCE = 500

MOST_TIMES = 4096
"""Frames behind a gap of which a stream knows when they were taken."""


class ResultLog:
    """The log of one server. Its calls are awaited on one event loop."""

    def __init__(self, database: Database, *, window: int, feed: Feed | None = None) -> None:
        """window: frames that may be skipped before a later one; see ``resume_after``.

        Blocks while it reads where the log ends. Raises ``StorageError``.
        """
        self.database = database
        self.ownership = (
            None if database.commit_lock is None else Ownership(database.commit_lock.server)
        )
        """Of sessions, where servers share the log."""
        self.counters = SequenceCounters(database.writer, window, self.ownership)
        """For retention; in the writer's thread."""
        database.writer.run(self.counters.begin)
        self.feed = feed or Feed()
        self.feed.start(self.counters.next_cursor - 1)
        self.recorded: Callable[[Sequence[Record]], None] = self.feed.publish
        """Called with records of this server; where servers share the log, all of them come
        to the feed by ``catch_up``."""
        self._catching_up = asyncio.Lock()
        self._rows = Rows(self.counters, is_sqlite=database.is_sqlite)

    @property
    def added_bytes(self) -> int:
        """Messages and outcomes that this process has added."""
        return self._rows.added_bytes

    # -- frames in -------------------------------------------------------------------------------

    async def accept(self, key: SessionKey, frames: Sequence[NewFrame]) -> list[Accepted]:
        """Keep frames, all in one commit; they are durable when this returns.

        What became of each, in their order: of several with one sequence the first is kept, and
        none that refers to a frame that is not kept. Raises ``StorageError``; then none is kept.
        """

        def change(connection: Connection) -> list[Accepted]:
            return self._rows.frames(connection, key, frames)

        def publish(accepted: list[Accepted]) -> None:
            self.recorded([one.record for one in accepted if one.new and one.record is not None])

        return await self.database.write(change, publish, repeatable=True)

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
        """Record the result, its picture left out, and wake those who follow.

        The one that was recorded before when there is one. Raises ``StorageError``.
        """
        data, terms = kept(outcome)

        def change(connection: Connection) -> Record:
            return self._rows.result(connection, submission, data, terms)

        return await self.database.write(
            change, lambda record: self.recorded([record]), repeatable=True
        )

    # -- out -------------------------------------------------------------------------------------

    async def resume_after(self, key: SessionKey, seen: int = 0) -> tuple[int, int]:
        """Up to which sequence every frame was accepted, and the session's last result; 0: none.

        ``seen`` is the last result that the device knows: results of a session that is not known,
        or no longer, are numbered behind it. A missing frame counts as skipped for good once one
        that is ``window`` later has come.
        """

        def change(connection: Connection) -> tuple[int, int]:
            session = self.counters.session(connection, key, seen, take=True)
            connection.execute(
                update(SESSIONS).where(SESSIONS.c.id == session.id).values(last_seen_at=now_us())
            )
            self.counters.raise_floor(connection, session)
            return session.floor, session.last_result_id

        return await self.database.write(change, repeatable=True)

    async def results_after(self, key: SessionKey, result_id: int, limit: int) -> list[Record]:
        """The session's results with a larger number, in order. Raises ``StorageError``."""
        return await self.database.read(
            lambda connection: queries.results_after(connection, key, result_id, limit)
        )

    async def whereabouts(
        self, key: SessionKey, sequences: Collection[int]
    ) -> dict[int, Record | None]:
        """Those of these frames that are here, each with its first record; None: it has none yet.

        Raises ``StorageError``.
        """
        return await self.database.read(lambda one: queries.whereabouts(one, key, sequences))

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

    async def frames_back(
        self, key: SessionKey, sequence: int, max_bytes: int = PAGE_BYTES
    ) -> list[tuple[int, bytes]]:
        """See ``queries.frames_back``. Raises ``StorageError``."""
        return await self.database.read(
            lambda one: queries.frames_back(one, key, sequence, max_bytes)
        )

    async def newest_kept(self, key: SessionKey) -> int:
        """The session's last frame whose features are kept, with all that these need; 0: none.

        Raises ``StorageError``.
        """
        newest = await self.frames_back(key, MAX_SEQUENCE, 1)
        return newest[0][0] if newest else 0

    async def times_from(self, key: SessionKey, sequence: int) -> dict[int, int]:
        """See ``queries.times_from``. Raises ``StorageError``."""
        return await self.database.read(
            lambda one: queries.times_from(one, key, sequence, MOST_TIMES)
        )

    async def knows(self, key: SessionKey, sequence: int) -> bool:
        """Whether a frame was accepted, be it forgotten since. Raises ``StorageError``."""
        return await self.database.read(lambda one: queries.knows(one, key, sequence))

    async def forgotten_cursor(self) -> int:
        """Records up to here were forgotten."""
        return await self.database.read(queries.forgotten_cursor)


PICTURE_NOT_KEPT = error_to_message(
    SessionError(
        "picture_not_kept",
        "the log keeps features, not pictures; ResultService.GetFrame makes the picture again",
    )
)
"""In the record of a result that had a picture."""


class Rows:
    """Each call takes a connection that writes."""

    def __init__(self, counters: SequenceCounters, *, is_sqlite: bool) -> None:
        self._counters = counters
        self.added_bytes = 0
        """Messages and outcomes that this process has added."""
        once = sqlite.insert if is_sqlite else postgresql.insert
        self._new_submissions = BulkInsert(
            once(SUBMISSIONS).on_conflict_do_nothing(
                index_elements=["session_id", "sequence", "number"]
            )
        )
        self._new_results = BulkInsert(
            once(RESULTS).on_conflict_do_nothing(index_elements=["submission_id"])
        )

    def frames(
        self, connection: Connection, key: SessionKey, frames: Sequence[NewFrame]
    ) -> list[Accepted]:
        """Add those that are new, the first of several with one sequence, with their results."""
        session = self._counters.session(connection, key)
        now = now_us()
        rows: dict[int, Row] = {}
        lost = self._lost(connection, session, frames)
        for number, frame in enumerate(frames):
            if number in lost:
                continue
            if frame.sequence > session.floor and frame.sequence not in rows:
                rows[frame.sequence] = _submission_row(
                    self._counters.next_submission + len(rows), session, frame, 0, now
                )
        added = self._add(connection, list(rows.values()))
        results: list[tuple[Submission, Record]] = []
        new = {number: Accepted(None, new=False, lost=True) for number in lost}
        for number, frame in enumerate(frames):
            row = rows.get(frame.sequence)
            if row is None or row["id"] not in added:
                continue
            added.discard(row["id"])
            submission = _submission(key, row)
            record = None
            if frame.outcome is not None:
                data, terms = kept(frame.outcome)
                record = self._record(session, len(results), submission, data, terms, now)
                results.append((submission, record))
            new[number] = Accepted(submission, new=True, record=record)
        self._add_results(connection, session, results)
        return [
            new.get(number) or self.known(connection, key, session, frame.sequence, frame.version)
            for number, frame in enumerate(frames)
        ]

    def refinement(
        self,
        connection: Connection,
        key: SessionKey,
        sequence: int,
        version: Version,
        message: bytes,
        check: Callable[[Sequence[bytes]], Any],
    ) -> Accepted:
        """Add a refinement of a frame that is there; see ``ResultLog.accept_refinement``."""
        session = self._counters.session(connection, key)
        first = queries.submission(connection, key, session.id, sequence)
        bundle_id = version[0] or (first.version[0] if first is not None else b"")
        whole = (bundle_id, version[1])
        known = self.known(connection, key, session, sequence, whole)
        if known.submission is not None and known.submission.version == whole:
            return known
        messages = queries.messages(connection, session.id, sequence)
        value = check(messages)
        frame = NewFrame(sequence, whole, message)
        row = _submission_row(
            self._counters.next_submission, session, frame, len(messages), now_us()
        )
        if not self._add(connection, [row]):
            raise StorageError("conflict", f"frame {sequence} was refined by another server")
        return Accepted(_submission(key, row), new=True, value=value)

    def result(
        self, connection: Connection, submission: Submission, data: bytes, terms: frozenset[str]
    ) -> Record:
        """Add a result; the one that was there when there is one."""
        session = self._counters.session(connection, submission.key)
        record = self._record(session, 0, submission, data, terms, now_us())
        if self._add_results(connection, session, [(submission, record)]):
            return record
        return queries.record_of(connection, submission.id)

    def known(
        self,
        connection: Connection,
        key: SessionKey,
        session: KnownSession,
        sequence: int,
        version: Version,
    ) -> Accepted:
        """A frame that was sent before."""
        submission = queries.submission(connection, key, session.id, sequence, version)
        if submission is None:
            return Accepted(None, new=False)
        return Accepted(submission, False, queries.record_or_none(connection, submission.id))

    # -- parts -----------------------------------------------------------------------------------

    def _lost(
        self, connection: Connection, session: KnownSession, frames: Sequence[NewFrame]
    ) -> set[int]:
        """Which of the new frames refer to one that is not kept, by their place among ``frames``.

        What is kept here is kept as long as they are, with all that it refers to.
        """
        wanted = {one for frame in frames for one in frame.refers_to}
        if not wanted:
            return set()
        there = set(
            connection.execute(
                select(SUBMISSIONS.c.sequence).where(
                    SUBMISSIONS.c.session_id == session.id,
                    SUBMISSIONS.c.sequence.in_(wanted),
                    SUBMISSIONS.c.number == 0,
                    SUBMISSIONS.c.message.is_not(None),
                )
            ).scalars()
        )
        lost = set()
        for number, frame in enumerate(frames):
            if there.issuperset(frame.refers_to):
                there.add(frame.sequence)
            else:
                lost.add(number)
        return lost

    def _add(self, connection: Connection, rows: list[Row]) -> set[int]:
        """Ids of the submissions that were new. Their numbers are behind all that there are."""
        if not rows:
            return set()
        added = {row["id"] for row in rows}
        if self._new_submissions(connection, rows) != len(rows):
            there = select(SUBMISSIONS.c.id).where(SUBMISSIONS.c.id >= rows[0]["id"])
            added &= set(connection.execute(there).scalars())
        self.added_bytes += sum(row["message_bytes"] for row in rows if row["id"] in added)
        self._counters.next_submission += len(rows)
        return added

    def _record(
        self,
        session: KnownSession,
        ahead: int,
        submission: Submission,
        data: bytes,
        terms: frozenset[str],
        now: int,
    ) -> Record:
        return Record(
            self._counters.next_cursor + ahead,
            submission.key,
            submission.sequence,
            submission.version,
            session.last_result_id + 1 + ahead,
            submission.captured_us,
            now,
            data,
            terms,
        )

    def _add_results(
        self,
        connection: Connection,
        session: KnownSession,
        results: Sequence[tuple[Submission, Record]],
    ) -> bool:
        """Whether these were new: of one submission, or of several that are new themselves."""
        rows = [_result_row(submission, session, record) for submission, record in results]
        if not rows or self._new_results(connection, rows) != len(rows):
            return False
        terms = [
            {"term": term, "cursor": record.cursor}
            for _, record in results
            for term in sorted(record.terms)
        ]
        if terms:
            connection.execute(insert(TERMS), terms)
        self.added_bytes += sum(row["outcome_bytes"] for row in rows)
        session.last_result_id += len(rows)
        self._counters.next_cursor += len(rows)
        return True


def kept(outcome: types_pb2.FrameOutcome) -> tuple[bytes, frozenset[str]]:
    """What the log keeps of an outcome, all but its picture, and what filters find it by."""
    if outcome.HasField("picture"):
        whole, outcome = outcome, types_pb2.FrameOutcome()
        outcome.CopyFrom(whole)
        outcome.ClearField("picture")
        outcome.picture_error.CopyFrom(PICTURE_NOT_KEPT)
    return outcome.SerializeToString(), terms_of(outcome)


def _submission_row(id: int, session: KnownSession, frame: NewFrame, number: int, now: int) -> Row:
    return {
        "id": id,
        "session_id": session.id,
        "sequence": frame.sequence,
        "number": number,
        "bundle": frame.version[0],
        "state": frame.version[1],
        "captured_at": frame.captured_us,
        "received_at": now,
        "attempts": 0,
        "message_bytes": len(frame.message),
        "message": frame.message,
        "group_start": frame.group_start,
    }


def _submission(key: SessionKey, row: Row) -> Submission:
    version = (row["bundle"], row["state"])
    return Submission(row["id"], key, row["sequence"], row["number"], version, row["captured_at"])


def _result_row(submission: Submission, session: KnownSession, record: Record) -> Row:
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
