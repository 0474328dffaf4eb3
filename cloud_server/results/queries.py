"""What is read of the log."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Select, func, select, update

from cloud_server.database.schema import RESULTS, SESSIONS, STATE, SUBMISSIONS, TERMS
from cloud_server.results.records import Filter, Record, SessionKey, Submission, Version, terms_of
from shared.proto.featherwire.v1 import types_pb2

_RECORD = select(RESULTS, SESSIONS.c.device, SESSIONS.c.session).join_from(
    RESULTS, SESSIONS, RESULTS.c.session_id == SESSIONS.c.id
)

_SUBMISSION = select(
    SUBMISSIONS.c.id,
    SUBMISSIONS.c.sequence,
    SUBMISSIONS.c.number,
    SUBMISSIONS.c.bundle,
    SUBMISSIONS.c.state,
    SUBMISSIONS.c.captured_at,
    SUBMISSIONS.c.attempts,
)


MOST_BACK = 256
"""Frames that are read at once to find what another one is predicted from."""


def session_by_key(key: SessionKey) -> Select[Any]:
    """The session's row."""
    return select(SESSIONS).where(SESSIONS.c.device == key[0], SESSIONS.c.session == key[1])


# -- frames --------------------------------------------------------------------------------------


def submission(
    connection: Connection,
    key: SessionKey,
    session_id: int,
    sequence: int,
    version: Version | None = None,
) -> Submission | None:
    """The submission of that version, else the frame itself; None when it was forgotten."""
    rows = connection.execute(
        _SUBMISSION.where(
            SUBMISSIONS.c.session_id == session_id,
            SUBMISSIONS.c.sequence == sequence,
            SUBMISSIONS.c.message.is_not(None),
            SUBMISSIONS.c.forgotten == 0,
        ).order_by(SUBMISSIONS.c.number)
    ).all()
    if not rows:
        return None
    same = [row for row in rows if (row.bundle, row.state) == version]
    return _submission(key, (same or rows)[0])


def messages(connection: Connection, session_id: int, sequence: int) -> list[bytes]:
    """A frame's messages, its refinements behind it; none when one of them was forgotten."""
    rows = connection.execute(
        select(SUBMISSIONS.c.number, SUBMISSIONS.c.message)
        .where(
            SUBMISSIONS.c.session_id == session_id,
            SUBMISSIONS.c.sequence == sequence,
            SUBMISSIONS.c.forgotten == 0,
        )
        .order_by(SUBMISSIONS.c.number)
    ).all()
    whole = all(row.number == n and row.message is not None for n, row in enumerate(rows))
    return [bytes(row.message) for row in rows] if whole else []


def frame_messages(connection: Connection, key: SessionKey, sequence: int) -> list[bytes]:
    """:func:`messages` of a session by name."""
    session = connection.execute(session_by_key(key)).one_or_none()
    return [] if session is None else messages(connection, session.id, sequence)


def knows(connection: Connection, key: SessionKey, sequence: int) -> bool:
    """Whether a frame was accepted, be it forgotten since."""
    session = connection.execute(session_by_key(key)).one_or_none()
    if session is None:
        return False
    return sequence <= session.floor or bool(
        connection.execute(
            select(func.count())
            .select_from(SUBMISSIONS)
            .where(SUBMISSIONS.c.session_id == session.id, SUBMISSIONS.c.sequence == sequence)
        ).scalar()
    )


def times_from(
    connection: Connection, key: SessionKey, sequence: int, limit: int
) -> dict[int, int]:
    """When the pictures of a session's frames from ``sequence`` on were taken, by sequence, in
    microseconds; of those that say it."""
    rows = connection.execute(
        select(SUBMISSIONS.c.sequence, SUBMISSIONS.c.captured_at)
        .join(SESSIONS, SESSIONS.c.id == SUBMISSIONS.c.session_id)
        .where(
            SESSIONS.c.device == key[0],
            SESSIONS.c.session == key[1],
            SUBMISSIONS.c.sequence >= sequence,
            SUBMISSIONS.c.number == 0,
            SUBMISSIONS.c.captured_at.is_not(None),
        )
        .order_by(SUBMISSIONS.c.sequence)
        .limit(limit)
    )
    return {row.sequence: row.captured_at for row in rows}


def frames_back(
    connection: Connection, key: SessionKey, sequence: int, max_bytes: int
) -> list[tuple[int, bytes]]:
    """A session's Frame messages from ``sequence`` backwards, each with its own sequence.

    Of ``max_bytes``, but at least one where there is any. Of those that were forgotten they have
    what others are predicted from.
    """
    rows = connection.execute(
        select(SUBMISSIONS.c.sequence, SUBMISSIONS.c.message_bytes, SUBMISSIONS.c.message)
        .join(SESSIONS, SESSIONS.c.id == SUBMISSIONS.c.session_id)
        .where(
            SESSIONS.c.device == key[0],
            SESSIONS.c.session == key[1],
            SUBMISSIONS.c.sequence <= sequence,
            SUBMISSIONS.c.number == 0,
            SUBMISSIONS.c.message.is_not(None),
        )
        .order_by(SUBMISSIONS.c.sequence.desc())
        .limit(MOST_BACK),
        execution_options={"yield_per": 8},
    )
    found: list[tuple[int, bytes]] = []
    for row in rows:
        found.append((row.sequence, bytes(row.message)))
        max_bytes -= row.message_bytes
        if max_bytes <= 0:
            rows.close()
            break
    return found


def pending(connection: Connection, session_ids: Collection[int] | None = None) -> list[Submission]:
    """Submissions without a result, of these sessions or of all, oldest first."""
    query = (
        _SUBMISSION.add_columns(SESSIONS.c.device, SESSIONS.c.session)
        .join_from(SUBMISSIONS, SESSIONS, SUBMISSIONS.c.session_id == SESSIONS.c.id)
        .outerjoin(RESULTS, RESULTS.c.submission_id == SUBMISSIONS.c.id)
        .where(
            RESULTS.c.cursor.is_(None),
            SUBMISSIONS.c.message.is_not(None),
            SUBMISSIONS.c.forgotten == 0,
        )
        .order_by(SUBMISSIONS.c.id)
    )
    if session_ids is not None:
        query = query.where(SUBMISSIONS.c.session_id.in_(session_ids))
    return [_submission((row.device, row.session), row) for row in connection.execute(query)]


def floor(connection: Connection, session_id: int, known: int, window: int) -> int:
    """Up to which sequence every frame is there, from ``known`` on."""
    of_session = (SUBMISSIONS.c.session_id == session_id, SUBMISSIONS.c.number == 0)
    newest = connection.execute(
        select(func.max(SUBMISSIONS.c.sequence)).where(*of_session)
    ).scalar()
    reached = max(known, (newest or 0) - window)
    rows = connection.execute(
        select(SUBMISSIONS.c.sequence)
        .where(*of_session, SUBMISSIONS.c.sequence > reached)
        .order_by(SUBMISSIONS.c.sequence),
        execution_options={"yield_per": 1000},
    )
    for sequence in rows.scalars():
        if sequence != reached + 1:
            rows.close()
            break
        reached = sequence
    return reached


# -- results -------------------------------------------------------------------------------------


def record_or_none(connection: Connection, submission_id: int) -> Record | None:
    """The result of a submission."""
    row = connection.execute(_RECORD.where(RESULTS.c.submission_id == submission_id)).one_or_none()
    return None if row is None else _record(row)


def record_of(connection: Connection, submission_id: int) -> Record:
    """The result of a submission that has one."""
    return _record(
        connection.execute(_RECORD.where(RESULTS.c.submission_id == submission_id)).one()
    )


def record_at(connection: Connection, cursor: int) -> Record | None:
    """The record of that cursor."""
    row = connection.execute(_RECORD.where(RESULTS.c.cursor == cursor)).one_or_none()
    return None if row is None else _record(row)


def record_of_frame(connection: Connection, key: SessionKey, sequence: int) -> Record | None:
    """The newest record of a frame."""
    row = connection.execute(
        _RECORD.where(
            SESSIONS.c.device == key[0],
            SESSIONS.c.session == key[1],
            RESULTS.c.sequence == sequence,
        )
        .order_by(RESULTS.c.cursor.desc())
        .limit(1)
    ).one_or_none()
    return None if row is None else _record(row)


def whereabouts(
    connection: Connection, key: SessionKey, sequences: Collection[int]
) -> dict[int, Record | None]:
    """Those of these frames that are here, each with its first record; None: it has none yet."""
    rows = connection.execute(
        select(SUBMISSIONS.c.sequence, RESULTS.c.cursor)
        .join(SESSIONS, SESSIONS.c.id == SUBMISSIONS.c.session_id)
        .outerjoin(RESULTS, RESULTS.c.submission_id == SUBMISSIONS.c.id)
        .where(
            SESSIONS.c.device == key[0],
            SESSIONS.c.session == key[1],
            SUBMISSIONS.c.sequence.in_(sequences),
            SUBMISSIONS.c.number == 0,
        )
    ).all()
    return {
        row.sequence: None if row.cursor is None else record_at(connection, row.cursor)
        for row in rows
    }


def results_after(
    connection: Connection, key: SessionKey, result_id: int, limit: int
) -> list[Record]:
    """A session's records with larger numbers, in order."""
    rows = connection.execute(
        _RECORD.where(
            SESSIONS.c.device == key[0],
            SESSIONS.c.session == key[1],
            RESULTS.c.result_id > result_id,
        )
        .order_by(RESULTS.c.result_id)
        .limit(limit)
    )
    return [_record(row) for row in rows]


@dataclass(frozen=True, slots=True)
class Page:
    """Records in order of their cursors, or newest first; ``position`` is the cursor to go on from.

    ``end``: there were no more. ``forgotten``: records up to this cursor are gone.
    """

    records: list[Record]
    position: int
    end: bool
    forgotten: int


def page(
    connection: Connection,
    wanted: Filter,
    after: int,
    limit: int,
    max_bytes: int,
    *,
    before: int | None = None,
) -> Page:
    """At most ``limit`` records after a cursor, of ``max_bytes`` outcomes, but at least one.

    With ``before`` newest first, of those before that cursor (0: of all).
    """
    forgotten = forgotten_cursor(connection)
    last = connection.execute(select(func.max(RESULTS.c.cursor))).scalar() or forgotten
    within = [RESULTS.c.cursor > after, RESULTS.c.cursor <= last]
    if before:
        within.append(RESULTS.c.cursor < before)
    # Times rise with cursors, but for a clock that was set back: no index is needed to find them.
    if wanted.since_us is not None:
        within.append(RESULTS.c.cursor > _cursor_before(connection, wanted.since_us, last))
    if wanted.until_us is not None:
        within.append(RESULTS.c.cursor <= _cursor_before(connection, wanted.until_us, last))
    order = RESULTS.c.cursor if before is None else RESULTS.c.cursor.desc()
    rows = connection.execute(
        _filtered(wanted).where(*within).order_by(order).limit(limit + 1),
        execution_options={"yield_per": 64},
    )
    records: list[Record] = []
    size_bytes = 0
    for row in rows:
        size_bytes += row.outcome_bytes
        if records and (len(records) >= limit or size_bytes > max_bytes):
            rows.close()
            return Page(records, records[-1].cursor, False, forgotten)
        records.append(_record(row))
    end = max(last, after) if before is None else after
    return Page(records, end, True, forgotten)


def _cursor_before(connection: Connection, instant_us: int, last: int) -> int:
    """The last cursor, or one between it and the next, whose record was completed before then."""
    low, high = 0, last  # every record up to low is older, none beyond high is
    while low < high:
        middle = (low + high + 1) // 2
        row = connection.execute(
            select(RESULTS.c.cursor, RESULTS.c.completed_at)
            .where(RESULTS.c.cursor <= middle, RESULTS.c.cursor > low)
            .order_by(RESULTS.c.cursor.desc())
            .limit(1)
        ).one_or_none()
        if row is None or row.completed_at < instant_us:
            low = middle
        else:
            high = row.cursor - 1
    return low


def forgotten_cursor(connection: Connection) -> int:
    """Records up to here were forgotten."""
    cursor: int = connection.execute(select(STATE.c.forgotten_cursor)).scalar_one()
    return cursor


def forget_up_to(connection: Connection, cursor: int) -> None:
    """Note that records up to ``cursor`` are gone."""
    connection.execute(update(STATE).values(forgotten_cursor=cursor))


def _filtered(wanted: Filter) -> Select[Any]:
    query = _RECORD
    if wanted.devices:
        query = query.where(SESSIONS.c.device.in_(sorted(wanted.devices)))
    if wanted.sessions:
        query = query.where(SESSIONS.c.session.in_(sorted(wanted.sessions)))
    for terms in (wanted.tasks, wanted.classes):
        if terms:
            found = select(TERMS.c.cursor).where(
                TERMS.c.term.in_(sorted(terms)), TERMS.c.cursor == RESULTS.c.cursor
            )
            query = query.where(found.exists())
    return query


def _submission(key: SessionKey, row: Any) -> Submission:
    version = (bytes(row.bundle), row.state)
    return Submission(row.id, key, row.sequence, row.number, version, row.captured_at, row.attempts)


def _record(row: Any) -> Record:
    outcome = bytes(row.outcome)
    return Record(
        row.cursor,
        (row.device, row.session),
        row.sequence,
        (bytes(row.bundle), row.state),
        row.result_id,
        row.captured_at,
        row.completed_at,
        outcome,
        terms_of(types_pb2.FrameOutcome.FromString(outcome)),
    )
