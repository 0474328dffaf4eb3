"""Heartbeats of servers that share a log, and the sessions that a dead one has left."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import structlog
from sqlalchemy import Connection, delete, or_, select, text, tuple_
from sqlalchemy.dialects.postgresql import insert

from cloud_server.database import Database
from cloud_server.database.locks import note_moves
from cloud_server.database.schema import OWNERS, RESULTS, SERVERS, SESSIONS, SUBMISSIONS
from cloud_server.results import queries
from cloud_server.results.records import SessionKey, Submission
from shared.errors import StorageError

BEAT_S = 1.0
LEASE_S = 8.0
"""A server whose last heartbeat is so old is dead to the others."""

_NOW = text("SELECT (extract(epoch from clock_timestamp()) * 1e6)::bigint")

Attached = Callable[[], Sequence[SessionKey]]
TakeUp = Callable[[Sequence[Submission]], object]
Lose = Callable[[SessionKey], None]


class Membership:
    """Runs on the event loop of a server that shares its log.

    ``attached`` returns the sessions that have a stream here; ``lose`` ends the stream of one that
    has moved; ``take_up`` processes frames that are ours to finish from now on; ``died`` hears that
    another server has gone.
    """

    def __init__(
        self,
        database: Database,
        server: str,
        *,
        attached: Attached,
        lose: Lose,
        take_up: TakeUp,
        died: Callable[[], Awaitable[None]],
    ) -> None:
        self._database = database
        self._server = server
        self._attached = attached
        self._lose = lose
        self._take_up = take_up
        self._died = died
        self._living: set[str] = set()
        self._first = True
        self.leads = False
        """Whether this is the oldest server: it alone forgets what is too old."""

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.beat()
            except StorageError as error:
                structlog.get_logger().error("not_alive", **error.to_dict())
            await asyncio.sleep(BEAT_S)

    async def beat(self) -> None:
        """Send a heartbeat, take over orphans, and let go of what others took.

        Raises ``StorageError``.
        """
        living, orphans = await self._database.write(self._beat)
        self._first = False
        gone, self._living = self._living - living, living
        if gone:
            structlog.get_logger().warning("servers_gone", servers=sorted(gone))
            await self._died()
        if orphans:
            self._take_up(await self._database.read(lambda one: queries.pending(one, orphans)))
        attached = self._attached()
        if attached:
            for key in await self._database.read(lambda one: self._moved(one, attached)):
                structlog.get_logger().info("session_moved", device=key[0], session=key[1])
                self._lose(key)

    async def leave(self) -> None:
        """What is left unfinished here is for the others, at once. Raises ``StorageError``."""
        await self._database.write(
            lambda one: one.execute(delete(SERVERS).where(SERVERS.c.id == self._server))
        )

    # -- parts -----------------------------------------------------------------------------------

    def _beat(self, connection: Connection) -> tuple[set[str], set[int]]:
        """Servers that live, and the sessions with unfinished frames that are ours now."""
        now = connection.execute(_NOW).scalar_one()
        row = insert(SERVERS).values(id=self._server, started_at=now, alive_at=now)
        connection.execute(row.on_conflict_do_update(index_elements=["id"], set_={"alive_at": now}))
        connection.execute(delete(SERVERS).where(SERVERS.c.alive_at < now - round(LEASE_S * 1e6)))
        living = connection.execute(
            select(SERVERS.c.id).order_by(SERVERS.c.started_at, SERVERS.c.id)
        )
        found = list(living.scalars())
        self.leads = found[0] == self._server
        return set(found), self._orphans(connection)

    def _orphans(self, connection: Connection) -> set[int]:
        """Take the sessions with unfinished frames that no living server has.

        Commits happen one at a time, so that two servers never take the same.
        """
        living = select(SERVERS.c.id)
        nobodys = OWNERS.c.server.not_in(living)
        left = connection.execute(select(OWNERS.c.session_id).where(nobodys).limit(1)).first()
        if left is None and not self._first:
            return set()
        unfinished = (
            select(SUBMISSIONS.c.session_id)
            .outerjoin(RESULTS, RESULTS.c.submission_id == SUBMISSIONS.c.id)
            .outerjoin(OWNERS, OWNERS.c.session_id == SUBMISSIONS.c.session_id)
            .where(
                RESULTS.c.cursor.is_(None),
                SUBMISSIONS.c.message.is_not(None),
                or_(OWNERS.c.server.is_(None), nobodys),
            )
            .distinct()
        )
        found = set(connection.execute(unfinished).scalars())
        connection.execute(delete(OWNERS).where(nobodys))
        note_moves(connection)
        if found:
            rows = [{"session_id": one, "server": self._server} for one in sorted(found)]
            connection.execute(insert(OWNERS), rows)
        return found

    def _moved(self, connection: Connection, keys: Sequence[SessionKey]) -> list[SessionKey]:
        rows = connection.execute(
            select(SESSIONS.c.device, SESSIONS.c.session)
            .join(OWNERS, OWNERS.c.session_id == SESSIONS.c.id)
            .where(
                OWNERS.c.server != self._server,
                tuple_(SESSIONS.c.device, SESSIONS.c.session).in_(keys),
            )
        )
        return [(row.device, row.session) for row in rows]
