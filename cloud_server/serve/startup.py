"""What a server needs before it listens: its database, TLS, and tokens for its callers.

The database is also opened here for commands that administer it beside a running server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import Connection

from cloud_server.auth.tokens import any_good
from cloud_server.database import Database
from cloud_server.database.database import database_url, make_file, open_engine, typed_errors
from cloud_server.database.locks import CommitLock
from cloud_server.database.schema import prepare
from cloud_server.serve.settings import ServerSettings
from shared.errors import FeatherwireError, StorageError
from shared.rpc.access import is_loopback


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
    if url.get_backend_name() == "sqlite" and not (file := Path(url.database or "")).exists():
        if not create:
            raise StorageError("no_database", f"there is no server's database at {file}")
        try:
            make_file(file)
        except OSError as error:
            raise StorageError("unavailable", f"{file} cannot be made: {error}") from None
    engine = open_engine(url)
    try:
        with typed_errors(url), engine.begin() as connection:
            prepare(connection, release)
            yield connection
    finally:
        engine.dispose()


def check_transport(settings: ServerSettings) -> None:
    """Raise ``FeatherwireError``: ``tls_missing``, or ``insecure_listen`` for what is not here.

    A server that is to be insecure listens on this machine's loopback alone, unless the settings
    say ``insecure_anywhere``.
    """
    if not settings.insecure:
        if settings.tls_certificate is None:
            raise FeatherwireError(
                "tls_missing",
                "a server needs TLS (--tls-cert, --tls-key; `featherwire-cloud auth dev-ca` makes "
                "files for a trial), or --insecure",
            )
        return
    if not settings.insecure_anywhere and not is_loopback(settings.listen):
        raise FeatherwireError(
            "insecure_listen",
            f"--insecure lets anybody in who reaches {settings.listen}: listen on 127.0.0.1, or "
            "add --insecure-anywhere",
        )


def check_tokens(settings: ServerSettings, database: Database) -> None:
    """Raise ``FeatherwireError("no_tokens")`` for a server that could let nobody in. Blocks."""
    if not settings.insecure and not database.read_now(any_good):
        raise FeatherwireError(
            "no_tokens",
            "nobody has a token for this server: `featherwire-cloud auth token create` makes one "
            "(with the same --data, --database or --config), or give --insecure",
        )
