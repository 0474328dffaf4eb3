"""The server's database with all its tables: for the server, and for who administers it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from cloud_server.database import Database
from cloud_server.database.database import database_url, open_engine, typed_errors
from cloud_server.database.locks import CommitLock
from cloud_server.database.schema import prepare
from cloud_server.serve.settings import ServerSettings
from shared.errors import StorageError


def open_database(settings: ServerSettings, release: str) -> Database:
    """The database, for this server and those that share its log. Blocks.

    Raises ``StorageError``.
    """
    return Database(
        settings.database_url,
        synchronous=settings.sqlite_synchronous,
        release=release,
        commit_lock=CommitLock() if settings.shared_log else None,
    )


@contextmanager
def administered(
    settings: ServerSettings, release: str, *, create: bool = True
) -> Iterator[Connection]:
    """A transaction on the database, beside a server that may be running.

    It is for tables that the server does not keep in memory. Blocks; a short one makes a running
    server's next commit wait. Without ``create`` there must be one. Raises ``StorageError``.
    """
    url = database_url(settings.database_url)
    if create:
        settings.make_data_folder()
    elif url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise StorageError("no_database", f"there is no server's database at {url.database}")
    engine = open_engine(url)
    try:
        with typed_errors(url), engine.begin() as connection:
            prepare(connection, release)
            yield connection
    finally:
        engine.dispose()
