"""Whose a session is. Used in the writer's thread, inside a turn."""

from __future__ import annotations

from sqlalchemy import Connection, select
from sqlalchemy.dialects.postgresql import insert

from cloud_server.cluster.tables import OWNERS
from cloud_server.cluster.turn import moved
from shared.errors import StorageError

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
            row = insert(OWNERS).values(session_id=session_id, server=self._server)
            connection.execute(
                row.on_conflict_do_update(
                    index_elements=["session_id"], set_={"server": self._server}
                )
            )
            if owner is not None:
                moved(connection)
                self.taken.add(session_id)
        self._mine.add(session_id)
