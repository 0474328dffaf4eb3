"""SQLAlchemy engines, and what databases complain of as typed errors.

SQLite runs in WAL mode, so that readers never wait for the writer. ``synchronous`` is FULL by
default: a commit is on the disk when it returns, and survives a loss of power; with NORMAL it
survives the end of the process, but a loss of power may take the last commits with it. PostgreSQL's
own ``synchronous_commit`` is left as the operator has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from shared.errors import StorageError

BUSY_TIMEOUT_MS = 10_000
JOURNAL_SIZE_LIMIT_BYTES = 64 * 2**20
PAGE_BYTES = 8192
"""Of a new file: frames take fewer writes than with 4096, and small rows no more."""
CHECKPOINT_PAGES = 2000
"""After so many pages of the write-ahead file (16 MiB) a commit moves them to the file itself."""
READERS = 8
"""Connections that stay open; a few more may be opened beside them."""

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
            engine = create_engine(url, pool_size=READERS)
            _set_pragmas(engine, synchronous)
        else:
            engine = create_engine(url, pool_size=READERS, pool_pre_ping=True)
    except (ImportError, NoSuchModuleError):
        raise StorageError(
            "driver_missing", "PostgreSQL needs psycopg: pip install 'featherwire[postgres]'"
        ) from None
    return engine


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


@contextmanager
def typed_errors(url: URL) -> Iterator[None]:
    """Turn what the database raises into ``StorageError``: disk_full, corrupt, unavailable."""
    try:
        yield
    except SQLAlchemyError as error:
        raise storage_error(url, error) from error


def storage_error(url: URL, error: SQLAlchemyError) -> StorageError:
    """``error`` as ours; the statement and its values are left out, they may be anything."""
    told = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    text = " ".join(str(told).split())[:300]
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
