"""One server writes at a time. Others may read at any time."""

from __future__ import annotations

import uuid

from sqlalchemy import Connection, text, update
from sqlalchemy.dialects.postgresql import insert

from cloud_server.cluster.tables import TURN
from cloud_server.database.lock import ADVISORY_KEY

CHANNEL = "featherwire_log"
"""Servers LISTEN here: every commit wakes them."""

STUCK_S = 15
"""A server that stops in the middle of a transaction loses it, and its turn, after so long."""

_KEY = ADVISORY_KEY + 1
_BEGIN = text("SELECT pg_advisory_xact_lock(:key), pg_notify(:channel, :server)")


class Turn:
    """This server's turns. ``begin`` is the first thing of every transaction that writes."""

    def __init__(self) -> None:
        self.server = str(uuid.uuid4())
        """This server's id among those that share the log."""
        self.prepared = False
        """Whether the tables are there."""

    def connected(self, connection: Connection) -> None:
        """A connection that is going to write."""
        connection.execute(text(f"SET idle_in_transaction_session_timeout = '{STUCK_S}s'"))
        connection.commit()

    def begin(self, connection: Connection) -> bool:
        """Wait for the turn, which ends with the transaction. True: another had it since."""
        values = {"key": _KEY, "channel": CHANNEL, "server": self.server}
        connection.execute(_BEGIN, values)
        if not self.prepared:
            return True
        mine = insert(TURN).values(id=1, server=self.server, moves=0)
        done = connection.execute(
            mine.on_conflict_do_update(
                index_elements=["id"],
                set_={"server": self.server},
                where=TURN.c.server != self.server,
            ).execution_options(preserve_rowcount=True)
        )
        return done.rowcount == 1


def moved(connection: Connection) -> None:
    """Sessions have gone to another server: what all remember of them must be read again."""
    connection.execute(update(TURN).values(moves=TURN.c.moves + 1))
