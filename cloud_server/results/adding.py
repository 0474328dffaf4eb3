"""Rows of the log, added in the writer's thread: many frames at a time, each of them once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from sqlalchemy import Connection, insert, select
from sqlalchemy.dialects import postgresql, sqlite

from cloud_server.database.bulk import BulkInsert, Row
from cloud_server.results import queries
from cloud_server.results.positions import KnownSession, Positions
from cloud_server.results.records import (
    Accepted,
    NewFrame,
    Record,
    SessionKey,
    Submission,
    Version,
    now_us,
    terms_of,
)
from cloud_server.results.tables import RESULTS, SUBMISSIONS, TERMS
from shared.errors import SessionError, StorageError
from shared.proto.featherwire.v1 import types_pb2
from shared.wire import error_to_message

PICTURE_NOT_KEPT = error_to_message(
    SessionError(
        "picture_not_kept",
        "the log keeps features, not pictures; ResultService.GetFrame makes the picture again",
    )
)
"""In the record of a result that had a picture."""


class Rows:
    """Each call takes a connection that writes."""

    def __init__(self, positions: Positions, *, is_sqlite: bool) -> None:
        self._positions = positions
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
        session = self._positions.session(connection, key)
        now = now_us()
        rows: dict[int, Row] = {}
        for frame in frames:
            if frame.sequence > session.floor and frame.sequence not in rows:
                rows[frame.sequence] = _submission_row(
                    self._positions.next_submission + len(rows), session, frame, 0, now
                )
        added = self._add(connection, list(rows.values()))
        results: list[tuple[Submission, Record]] = []
        new: dict[int, Accepted] = {}
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
        session = self._positions.session(connection, key)
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
            self._positions.next_submission, session, frame, len(messages), now_us()
        )
        if not self._add(connection, [row]):
            raise StorageError("conflict", f"frame {sequence} was refined by another server")
        return Accepted(_submission(key, row), new=True, value=value)

    def result(
        self, connection: Connection, submission: Submission, data: bytes, terms: frozenset[str]
    ) -> Record:
        """Add a result; the one that was there when there is one."""
        session = self._positions.session(connection, submission.key)
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

    def _add(self, connection: Connection, rows: list[Row]) -> set[int]:
        """Ids of the submissions that were new. Their numbers are behind all that there are."""
        if not rows:
            return set()
        added = {row["id"] for row in rows}
        if self._new_submissions(connection, rows) != len(rows):
            there = select(SUBMISSIONS.c.id).where(SUBMISSIONS.c.id >= rows[0]["id"])
            added &= set(connection.execute(there).scalars())
        self.added_bytes += sum(row["message_bytes"] for row in rows if row["id"] in added)
        self._positions.next_submission += len(rows)
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
            self._positions.next_cursor + ahead,
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
        self._positions.next_cursor += len(rows)
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
