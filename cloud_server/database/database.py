"""The server's database, open: readers on worker threads, one writer."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import Connection
from sqlalchemy.exc import SQLAlchemyError

from cloud_server.database.engine import (
    database_url,
    open_engine,
    place,
    storage_error,
    typed_errors,
)
from cloud_server.database.lock import FileLock, take_advisory_lock
from cloud_server.database.schema import prepare
from cloud_server.database.writer import Writer
from shared.errors import StorageError

T = TypeVar("T")


class Turn(Protocol):
    """Turns of several servers; see ``cloud_server.cluster.turn``."""

    server: str
    prepared: bool

    def connected(self, connection: Connection) -> None: ...

    def begin(self, connection: Connection) -> bool: ...


LOCK_WAIT_S = 30.0
"""How long a server waits for the one before it to let go of the database. Where that was killed,
PostgreSQL must first finish what it was told, and hear of the end."""


class Database:
    """An open database that this process alone writes to, or servers in turns."""

    def __init__(
        self,
        url: str,
        *,
        synchronous: str = "full",
        release: str = "0",
        lock_wait_s: float = LOCK_WAIT_S,
        turn: Turn | None = None,
    ) -> None:
        """Open, and create or migrate what is there. Blocks. turn: other servers write too.

        Raises ``StorageError``: bad_url, driver_missing, in_use, newer_schema, foreign_database,
        corrupt, disk_full, unavailable.
        """
        self._url = database_url(url)
        self._lock_wait_s = lock_wait_s
        self.turn = turn
        """How this server takes turns with others; None: it is alone."""
        if turn is not None and self.is_sqlite:
            raise StorageError("bad_url", "a log that servers share is in PostgreSQL")
        self._file_lock = self._lock_file()
        try:
            self.engine = open_engine(self._url, synchronous=synchronous)
            with typed_errors(self._url):
                self.writer = Writer(
                    self._connect,
                    lambda error: storage_error(self._url, error),
                    None if turn is None else turn.begin,
                )
                self.version_found = self.writer.run(lambda one: prepare(one, release))
            if turn is not None:
                turn.prepared = True
        except BaseException:
            self._release()
            raise
        self.place = place(self._url)
        """Where it is, without a password."""

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file beside the server."""
        return self._url.get_backend_name() == "sqlite"

    async def read(self, query: Callable[[Connection], T]) -> T:
        """``query`` on a connection of its own, in a worker thread. Raises ``StorageError``."""
        return await asyncio.to_thread(self.read_now, query)

    def read_now(self, query: Callable[[Connection], T]) -> T:
        """``query`` in this thread. Raises ``StorageError``."""
        with typed_errors(self._url), self.engine.connect() as connection:
            return query(connection)

    async def write(
        self, change: Callable[[Connection], T], then: Callable[[T], None] | None = None
    ) -> T:
        """See :meth:`Writer.write`."""
        return await self.writer.write(change, then)

    def close(self) -> None:
        """Write what is waiting and let go of the database. Blocks."""
        self.writer.close()
        self._release()

    # -- parts -----------------------------------------------------------------------------------

    def _connect(self) -> Connection:
        """A connection that may write: on PostgreSQL one that holds the lock."""
        with typed_errors(self._url):
            connection = self.engine.connect()
        if not self.is_sqlite:
            try:
                shared = self.turn is not None
                take_advisory_lock(connection, place(self._url), self._lock_wait_s, shared=shared)
                if self.turn is not None:
                    self.turn.connected(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _lock_file(self) -> FileLock | None:
        if not self.is_sqlite:
            return None
        assert self._url.database is not None
        path = Path(self._url.database)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # The log has everybody's frames, and hashes of tokens. SQLite gives its other files the
            # permissions of the first.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
            return FileLock(path.with_name(path.name + ".lock"), self._lock_wait_s)
        except OSError as error:
            raise StorageError("unavailable", f"{path.parent} cannot be used: {error}") from None

    def _release(self) -> None:
        if hasattr(self, "writer"):
            self.writer.close()
        if hasattr(self, "engine"):
            with suppress(SQLAlchemyError):  # it is going away in any case
                self.engine.dispose()
        if self._file_lock is not None:
            self._file_lock.release()
