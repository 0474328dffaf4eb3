"""The server's database, open: readers on worker threads, one writer, errors as StorageError.

SQLite runs in WAL mode, so that readers never wait for the writer. ``synchronous`` is FULL by
default: a commit is on the disk when it returns, and survives a loss of power; with NORMAL it
survives the end of the process, but a loss of power may take the last commits with it. PostgreSQL's
own ``synchronous_commit`` is left as the operator has it.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

from sqlalchemy import URL, Connection, Engine, create_engine, event, make_url, text, update
from sqlalchemy.exc import (
    ArgumentError,
    DBAPIError,
    NoSuchModuleError,
    OperationalError,
    SQLAlchemyError,
)

from cloud_server.database.locks import CommitLock, FileLock, take_advisory_lock
from cloud_server.database.schema import STATE, prepare
from cloud_server.database.writer import Writer
from shared.errors import StorageError
from shared.installation import install_command

T = TypeVar("T")


LOCK_WAIT_S = 30.0
"""How long a server waits for the one before it to let go of the database. Where that was killed,
PostgreSQL must first finish what it was sent, and notice the end."""


class Database:
    """An open database that this process alone writes to, or several servers one at a time."""

    def __init__(
        self,
        url: str,
        *,
        synchronous: str = "full",
        release: str = "0",
        lock_wait_s: float = LOCK_WAIT_S,
        commit_lock: CommitLock | None = None,
    ) -> None:
        """Open, and create or migrate what is there. Blocks.

        commit_lock: other servers write too, one at a time.


        Raises ``StorageError``: bad_url, driver_missing, in_use, newer_schema, foreign_database,
        corrupt, disk_full, unavailable.
        """
        self._url = database_url(url)
        self._lock_wait_s = lock_wait_s
        self.commit_lock = commit_lock
        """Shared with the other servers that write; None: this one is alone."""
        if commit_lock is not None and self.is_sqlite:
            raise StorageError("bad_url", "a log that servers share is in PostgreSQL")
        self._file_lock = self._lock_file()
        self._file = DatabaseFile(Path(self._url.database or "")) if self.is_sqlite else None
        try:
            self.engine = open_engine(self._url, synchronous=synchronous)
            with typed_errors(self._url):
                self.writer = Writer(
                    self._connect,
                    lambda error: storage_error(self._url, error),
                    self._begin,
                    spoils=self._spoils,
                )
                self.version_found = self.writer.run(lambda one: self._prepare(one, release))
            if commit_lock is not None:
                commit_lock.prepared = True
        except BaseException:
            self._release()
            raise
        self.place = place(self._url)
        """Where it is, without a password."""

    @property
    def is_sqlite(self) -> bool:
        """Whether it is a file beside the server."""
        return self._url.get_backend_name() == "sqlite"

    @property
    def away_s(self) -> float:
        """For how many seconds nothing could be written; 0 while it can."""
        return self.writer.away_s

    @property
    def idle_s(self) -> float:
        """Seconds since something was written."""
        return self.writer.idle_s

    @property
    def failing(self) -> bool:
        """Whether what was to be written last could not be."""
        return self.writer.failing

    async def probe(self) -> None:
        """Write something that changes nothing. Raises ``StorageError`` when that cannot be."""
        await self.writer.write(_touch, repeatable=True)

    async def read(self, query: Callable[[Connection], T]) -> T:
        """``query`` on a connection of its own, in a worker thread. Raises ``StorageError``."""
        return await asyncio.to_thread(self.read_now, query)

    def read_now(self, query: Callable[[Connection], T]) -> T:
        """``query`` in this thread. Raises ``StorageError``.

        It runs again on another connection where its own was lost, or there was none; not so while
        it is known that the database is away.
        """
        until = time.monotonic() + (0.0 if self.writer.failing else READ_AGAIN_S)
        while True:
            try:
                with typed_errors(self._url), self.engine.connect() as connection:
                    return query(connection)
            except StorageError as error:
                if not _is_away(error.__cause__) or time.monotonic() >= until:
                    raise
            time.sleep(READ_PAUSE_S)

    async def write(
        self,
        change: Callable[[Connection], T],
        then: Callable[[T], None] | None = None,
        *,
        repeatable: bool = False,
    ) -> T:
        """See :meth:`Writer.write`."""
        return await self.writer.write(change, then, repeatable=repeatable)

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
                shared = self.commit_lock is not None
                take_advisory_lock(connection, place(self._url), self._lock_wait_s, shared=shared)
                if self.commit_lock is not None:
                    self.commit_lock.connected(connection)
            except BaseException:
                connection.close()
                raise
        return connection

    def _prepare(self, connection: Connection, release: str) -> int:
        if not self.is_sqlite:
            connection.execute(text("SET LOCAL statement_timeout = 0"))
        return prepare(connection, release)

    def _begin(self, connection: Connection) -> bool:
        """The first thing of every transaction that writes."""
        if self._file is not None:
            self._file.check()
        return self.commit_lock is not None and self.commit_lock.begin(connection)

    def _spoils(self, error: SQLAlchemyError) -> bool:
        """Whether a connection is to be made anew after ``error``: it is to a server that takes no
        writes, as after a failover, or to a file on a disk that failed."""
        if not self.is_sqlite:
            return _is_away(error)
        text = str(error).lower()
        return isinstance(error, OperationalError) and any(sign in text for sign in _DISK_GONE)

    def _lock_file(self) -> FileLock | None:
        if not self.is_sqlite:
            return None
        assert self._url.database is not None
        path = Path(self._url.database)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            make_file(path)
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


BUSY_TIMEOUT_MS = 10_000
JOURNAL_SIZE_LIMIT_BYTES = 64 * 2**20
PAGE_BYTES = 8192
"""Of a new file: frames take fewer writes than with 4096, and small rows no more."""
CHECKPOINT_PAGES = 2000
"""After so many pages of the write-ahead file (16 MiB) a commit moves them to the file itself."""
READERS = 8
"""Connections that stay open; a few more may be opened beside them."""

READ_AGAIN_S = 3.0
READ_PAUSE_S = 0.1
"""For so long, and so often, a query is tried again for which there is no connection."""

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_S = 60
"""For PostgreSQL; a migration has as long as it takes."""

_TCP = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""Of libpq, where the URL does not say otherwise: a peer that has vanished, or a connection that a
firewall has forgotten, is noticed within half a minute."""

_AWAY = frozenset({"25006", "57P01", "57P02", "57P03", "57P05", "53300"})
"""SQLSTATEs: read-only, as a primary that no longer is one; shut down; starting; an idle connection
that was ended; too many connections."""

_DISK_GONE = ("disk i/o error", "readonly", "unable to open")
_DISK_FULL = ("disk is full", "no space left", "could not extend file")
_CORRUPT = ("malformed", "not a database", "disk image", "invalid page", "could not read block")


def database_url(text: str) -> URL:
    """The URL of a database: SQLite or PostgreSQL, through psycopg 3.

    Raises ``StorageError("bad_url")``, which does not repeat the URL: it may hold a password.
    """
    try:
        url = make_url(text)
    except ArgumentError:
        raise StorageError("bad_url", "the database's URL cannot be read") from None
    backend = url.get_backend_name()
    if backend == "postgresql":
        return url.set(drivername="postgresql+psycopg")
    if backend == "sqlite" and url.database not in (None, "", ":memory:"):
        return url.set(drivername="sqlite")
    raise StorageError(
        "bad_url",
        "the database's URL is sqlite:///FILE or postgresql://USER:PASSWORD@HOST/NAME, not "
        f"{url.render_as_string(hide_password=True)}",
    )


def open_engine(url: URL, *, synchronous: str = "full") -> Engine:
    """An engine; nothing is connected yet. ``synchronous`` (full, normal) is SQLite's.

    Raises ``StorageError("driver_missing")``.
    """
    try:
        if url.get_backend_name() == "sqlite":
            engine = create_engine(
                url, pool_size=READERS, creator=lambda: _connect_file(str(url.database))
            )
            _set_pragmas(engine, synchronous)
        else:
            given = {name: value for name, value in _TCP.items() if name not in url.query}
            engine = create_engine(url, pool_size=READERS, pool_pre_ping=True, connect_args=given)
            _set_timeout(engine)
    except (ImportError, NoSuchModuleError):
        raise StorageError(
            "driver_missing", f"PostgreSQL needs psycopg: {install_command('postgres')}"
        ) from None
    return engine


def make_file(path: Path) -> None:
    """Make SQLite's file where there is none. Raises ``OSError``."""
    # The log has everybody's frames, and hashes of tokens. SQLite gives its other files the
    # permissions of the first.
    os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))


def _connect_file(path: str) -> sqlite3.Connection:
    """A connection to a file that is there: SQLite would make one that has gone anew, empty."""
    uri = f"file:{quote(os.path.abspath(path))}?mode=rw"
    return sqlite3.connect(uri, uri=True, check_same_thread=False)


def _set_pragmas(engine: Engine, synchronous: str) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        # The first connection to a new file decides how it is made.
        cursor.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        cursor.execute("PRAGMA auto_vacuum = INCREMENTAL")
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
        cursor.execute("PRAGMA journal_mode = WAL")
        cursor.execute(f"PRAGMA synchronous = {synchronous.upper()}")
        cursor.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
        cursor.execute(f"PRAGMA journal_size_limit = {JOURNAL_SIZE_LIMIT_BYTES}")
        cursor.close()


def _set_timeout(engine: Engine) -> None:
    @event.listens_for(engine, "connect")
    def connected(connection: Any, _record: Any) -> None:
        connection.execute(f"SET statement_timeout = '{STATEMENT_TIMEOUT_S}s'")
        connection.commit()


@contextmanager
def typed_errors(url: URL) -> Iterator[None]:
    """Turn what the database raises into ``StorageError``: disk_full, corrupt, unavailable."""
    try:
        yield
    except SQLAlchemyError as error:
        raise storage_error(url, error) from error


def _is_away(error: BaseException | None) -> bool:
    """Whether PostgreSQL cannot be reached, or not be used now, and another connection may help."""
    if not isinstance(error, DBAPIError):
        return False
    state = getattr(error.orig, "sqlstate", None)
    # What libpq says itself, as when it cannot connect, has no SQLSTATE.
    no_connection = isinstance(error, OperationalError) and state is None
    return error.connection_invalidated or no_connection or state in _AWAY


def _touch(connection: Connection) -> None:
    connection.execute(update(STATE).values(forgotten_cursor=STATE.c.forgotten_cursor))


class DatabaseFile:
    """SQLite's file: what is written to one that was moved away, or whose disk is gone, is lost."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = self._found()

    def check(self) -> None:
        """Raise ``StorageError("unavailable")`` unless the file is where it was."""
        found = self._found()
        if found == self._identity:
            return
        what = "is no longer there" if found is None else "is another file than it was"
        raise StorageError(
            "unavailable",
            f"{self._path} {what}: put it back where it was, or start the server again",
        )

    def _found(self) -> tuple[int, int] | None:
        try:
            status = os.stat(self._path)
        except OSError:
            return None
        return status.st_dev, status.st_ino


def storage_error(url: URL, error: SQLAlchemyError) -> StorageError:
    """``error`` as ours; the statement and its values are left out, they may be anything."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = " ".join(str(cause).split())[:300]
    where = place(url)
    lowered = text.lower()
    if any(sign in lowered for sign in _DISK_FULL):
        return StorageError("disk_full", f"there is no room left for {where}: {text}")
    if any(sign in lowered for sign in _CORRUPT):
        return StorageError(
            "corrupt",
            f"{where} is damaged: {text}; put it aside and start with a copy, or an empty folder",
        )
    return StorageError("unavailable", f"{where} cannot be used: {text}")


def place(url: URL) -> str:
    """The database in words, without a password."""
    if url.get_backend_name() == "sqlite":
        return str(Path(url.database or ""))
    return url.render_as_string(hide_password=True)
