"""Sequence counters: where the log ends, and where its sessions are.

They belong to the writer's thread alone. After a commit that failed all of it is read again, for
what was counted may not have come to be.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, func, insert, select, update
from sqlalchemy.dialects import postgresql

from cloud_server.database.locks import note_moves
from cloud_server.database.schema import (
    LAST_WRITER,
    OWNERS,
    RESULTS,
    SESSIONS,
    STATE,
    SUBMISSIONS,
    now_us,
)
from cloud_server.database.writer import Writer
from cloud_server.results import queries
from cloud_server.results.records import SessionKey
from shared.errors import StorageError

KNOWN_SESSIONS = 4096
"""Sessions that are remembered; others are read again."""

MAX_SEEN = 2**62
"""A number of a result that a device may claim to know: as many may follow."""


@dataclass(slots=True)
class KnownSession:
    """A session's row, and its last result's number."""

    id: int
    floor: int
    last_result_id: int


class SequenceCounters:
    """The next number of everything. Each call begins with a connection that writes."""

    def __init__(self, writer: Writer, window: int, ownership: Ownership | None = None) -> None:
        self._writer = writer
        self._window = window
        self._ownership = ownership
        self._seen = (-1, -1)
        self._sessions_seen: tuple[int | None, ...] = ()
        self._sessions: OrderedDict[SessionKey, KnownSession] = OrderedDict()
        self.next_submission = 1
        self.next_cursor = 1
        self.next_session = 1

    def begin(self, connection: Connection) -> None:
        """Read again where the log ends, after a commit that failed, or of another server."""
        seen = (self._writer.failures, self._writer.foreign_commits)
        if seen == self._seen:
            return
        ends = connection.execute(_ENDS).one()
        if ends.forgotten is None:
            connection.execute(insert(STATE).values(id=1, forgotten_cursor=0))
        # Sessions of this server are changed by others only when these are.
        sessions_seen = (seen[0], ends.forgotten, ends.moves)
        if sessions_seen != self._sessions_seen:
            self._sessions.clear()
            if self._ownership is not None:
                self._ownership.forget()
        self.next_cursor = 1 + max(ends.cursor or 0, ends.forgotten or 0)
        self.next_submission = 1 + (ends.submission or 0)
        self.next_session = 1 + (ends.session or 0)
        self._seen, self._sessions_seen = seen, sessions_seen

    def session(
        self, connection: Connection, key: SessionKey, seen: int = 0, *, take: bool = False
    ) -> KnownSession:
        """The session, which is a new one when it was not there.

        seen: the last result that the device knows; those of a new session are numbered behind it.
        Where servers share the log, a session of another is taken with ``take``; without it this
        raises ``StorageError("moved")``.
        """
        self.begin(connection)
        session = self._sessions.get(key)
        if session is None:
            session = self._find(connection, key, seen)
            self._sessions[key] = session
            if len(self._sessions) > KNOWN_SESSIONS:
                self._sessions.popitem(last=False)
        else:
            self._sessions.move_to_end(key)
        if self._ownership is not None:
            self._ownership.check(connection, session.id, take=take)
        return session

    def _find(self, connection: Connection, key: SessionKey, seen: int) -> KnownSession:
        row = connection.execute(queries.session_by_key(key)).one_or_none()
        if row is not None:
            last = connection.execute(
                select(func.max(RESULTS.c.result_id)).where(RESULTS.c.session_id == row.id)
            ).scalar()
            return KnownSession(row.id, row.floor, max(last or 0, row.forgotten_result_id))
        session = KnownSession(self.next_session, 0, min(seen, MAX_SEEN))
        connection.execute(
            insert(SESSIONS).values(
                id=session.id,
                device=key[0],
                session=key[1],
                first_seen_at=(now := now_us()),
                floor=0,
                forgotten_result_id=session.last_result_id,
                last_seen_at=now,
            )
        )
        self.next_session += 1
        return session

    def forget(self, keys: Iterable[SessionKey]) -> None:
        """These sessions' rows are gone."""
        for key in keys:
            self._sessions.pop(key, None)

    def raise_floor(self, connection: Connection, session: KnownSession) -> None:
        """Bring the session's floor up to date."""
        floor = queries.floor(connection, session.id, session.floor, self._window)
        if floor > session.floor:
            connection.execute(
                update(SESSIONS).where(SESSIONS.c.id == session.id).values(floor=floor)
            )
            session.floor = floor

    def raise_floors(self, connection: Connection, session_ids: Sequence[int]) -> None:
        """Bring the floors of these sessions up to date."""
        self.begin(connection)
        by_id = {session.id: session for session in self._sessions.values()}
        for session_id in session_ids:
            session = by_id.get(session_id)
            if session is None:
                floor = connection.execute(
                    select(SESSIONS.c.floor).where(SESSIONS.c.id == session_id)
                ).scalar_one()
                session = KnownSession(session_id, floor, 0)
            self.raise_floor(connection, session)


_ENDS = select(
    select(STATE.c.forgotten_cursor).scalar_subquery().label("forgotten"),
    select(func.max(RESULTS.c.cursor)).scalar_subquery().label("cursor"),
    select(func.max(SUBMISSIONS.c.id)).scalar_subquery().label("submission"),
    select(func.max(SESSIONS.c.id)).scalar_subquery().label("session"),
    select(LAST_WRITER.c.moves).scalar_subquery().label("moves"),
)


MOVED = "moved"


class Ownership:
    """Sessions of this server. A stream's Hello takes the session, whoever has it."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._mine: set[int] = set()
        self.taken: set[int] = set()
        """Ids of sessions that a Hello took from another server: it may have unfinished frames."""

    def forget(self) -> None:
        """Sessions have moved: some may be another's."""
        self._mine.clear()

    def check(self, connection: Connection, session_id: int, *, take: bool) -> None:
        """Raises ``StorageError("moved")`` for a session of another server, unless ``take``."""
        if session_id in self._mine:
            return
        owner = connection.execute(
            select(OWNERS.c.server).where(OWNERS.c.session_id == session_id)
        ).scalar()
        if owner != self._server:
            if owner is not None and not take:
                raise StorageError(MOVED, "the session has gone to another server")
            row = postgresql.insert(OWNERS).values(session_id=session_id, server=self._server)
            connection.execute(
                row.on_conflict_do_update(
                    index_elements=["session_id"], set_={"server": self._server}
                )
            )
            if owner is not None:
                note_moves(connection)
                self.taken.add(session_id)
        self._mine.add(session_id)
