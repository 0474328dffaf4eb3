"""Locks: one server a database, or several that share it and commit one at a time.

Two servers that did not know of each other would number results twice, and process the same frames.

SQLite: a lock on a file beside it, which the system lets go when the process ends, however it ends.
PostgreSQL: an advisory lock of the connection that writes, so that whoever writes has it. Servers
that share a log share that lock, and take the commit lock for every transaction that writes; others
may read at any time.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import IO

import structlog
from sqlalchemy import Connection, text, update
from sqlalchemy.dialects.postgresql import insert

from cloud_server.database.schema import LAST_WRITER
from shared.errors import StorageError
from shared.files import try_lock

ADVISORY_KEY = 0x66656174686572  # "feather"
_RETRY_S = 0.1


class FileLock:
    """A lock on a file, held until ``release`` or the end of the process."""

    def __init__(self, path: Path, wait_s: float) -> None:
        """Raises ``StorageError("in_use")`` after ``wait_s`` seconds."""
        self._file: IO[bytes] = path.open("ab")
        deadline = time.monotonic() + wait_s
        warned = False
        while True:
            if try_lock(self._file.fileno()):
                return
            if time.monotonic() >= deadline:
                self._file.close()
                raise in_use(str(path.parent))
            if not warned:
                warned = True
                structlog.get_logger().warning(
                    "waiting_for_the_server_before", place=str(path.parent), seconds=wait_s
                )
            time.sleep(_RETRY_S)

    def release(self) -> None:
        """Let another process have it."""
        self._file.close()


def take_advisory_lock(
    connection: Connection, place: str, wait_s: float, *, shared: bool = False
) -> None:
    """Hold PostgreSQL's lock as long as ``connection`` lives; raises ``StorageError("in_use")``.

    ``shared``: with others that share it, but not with one that wants to be alone.
    """
    # Should this machine vanish, its lock is let go in half a minute, not in the default two hours.
    connection.execute(
        text(
            "SELECT set_config('tcp_keepalives_idle', '10', false),"
            " set_config('tcp_keepalives_interval', '5', false),"
            " set_config('tcp_keepalives_count', '4', false)"
        )
    )
    connection.commit()
    deadline = time.monotonic() + wait_s
    waiting = False
    function = "pg_try_advisory_lock_shared" if shared else "pg_try_advisory_lock"
    while not connection.execute(
        text(f"SELECT {function}(:key)"), {"key": ADVISORY_KEY}
    ).scalar_one():
        connection.rollback()
        if not waiting:
            waiting = True
            structlog.get_logger().info("waiting_for_the_server_before", place=place, wait_s=wait_s)
        if time.monotonic() >= deadline:
            raise in_use(place)
        time.sleep(_RETRY_S)
    connection.commit()


def in_use(place: str) -> StorageError:
    """The error of a database that another server has."""
    return StorageError(
        "in_use", f"another server writes to {place}; stop it, or give this one another --data"
    )


CHANNEL = "featherwire_log"
"""Servers LISTEN here: every commit wakes them."""

STUCK_S = 15
"""A server that stops in the middle of a transaction loses it, and the lock, after so long."""

_KEY = ADVISORY_KEY + 1
_BEGIN = text("SELECT pg_advisory_xact_lock(:key), pg_notify(:channel, :server)")


class CommitLock:
    """The lock of servers that share a log, taken first in every transaction that writes."""

    def __init__(self) -> None:
        self.server = str(uuid.uuid4())
        """This server's id among those that share the log."""
        self.prepared = False
        """Whether the tables are there."""

    def connected(self, connection: Connection) -> None:
        """Prepare a connection that is going to write."""
        connection.execute(text(f"SET idle_in_transaction_session_timeout = '{STUCK_S}s'"))
        connection.commit()

    def begin(self, connection: Connection) -> bool:
        """Take the lock for this transaction. True: another server has committed since."""
        values = {"key": _KEY, "channel": CHANNEL, "server": self.server}
        connection.execute(_BEGIN, values)
        if not self.prepared:
            return True
        mine = insert(LAST_WRITER).values(id=1, server=self.server, moves=0)
        done = connection.execute(
            mine.on_conflict_do_update(
                index_elements=["id"],
                set_={"server": self.server},
                where=LAST_WRITER.c.server != self.server,
            ).execution_options(preserve_rowcount=True)
        )
        return done.rowcount == 1


def note_moves(connection: Connection) -> None:
    """Note that sessions have gone to another server: all read again what they know of them."""
    connection.execute(update(LAST_WRITER).values(moves=LAST_WRITER.c.moves + 1))
