"""What tables are defined on, and the version of all of them together."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sqlalchemy import BigInteger, Column, Connection, Integer, MetaData, Table, Text, inspect, text

from shared.errors import StorageError

METADATA = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)
"""Every table of the server's database."""

Number = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit integer; SQLite's row id when it is the only primary key."""


def _sessions_last_seen(connection: Connection) -> None:
    """Sessions know when they were last seen: those that are there, now."""
    now_us = time.time_ns() // 1000
    connection.execute(
        text(f"ALTER TABLE sessions ADD COLUMN last_seen_at BIGINT NOT NULL DEFAULT {now_us}")
    )


def _shared_logs(_connection: Connection) -> None:
    """Servers that share a log have new tables alone."""


MIGRATIONS: Sequence[Callable[[Connection], None]] = (_sessions_last_seen, _shared_logs)
"""Steps from version 1 on: the first takes a database of version 1 to version 2, and so on.

A step changes tables that were there before. Tables that are new in a version need none: what is
missing is created after the steps.
"""

_VERSION = Table(
    "featherwire_schema",
    METADATA,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("release", Text, nullable=False),
)


def current_version() -> int:
    """The version that this release reads and writes."""
    return 1 + len(MIGRATIONS)


def prepare(connection: Connection, release: str) -> int:
    """Create what is missing and migrate what is old; returns the version that was found, 0: none.

    Raises ``StorageError("newer_schema")`` for a database that a newer release has written, and
    ``StorageError("foreign_database")`` for one with tables but without our mark.
    """
    tables = set(inspect(connection).get_table_names())
    if _VERSION.name not in tables:
        if strange := tables & set(METADATA.tables):
            raise StorageError(
                "foreign_database",
                f"the database has a table {min(strange)} that is not Featherwire's; use another",
            )
        found = 0
    else:
        found = connection.execute(_VERSION.select()).scalar_one()
    wanted = current_version()
    if found > wanted:
        raise StorageError(
            "newer_schema",
            f"the database has version {found}, and this release ({release}) knows {wanted}; use "
            "the release that wrote it, or a newer one, or start with another --data",
            version=found,
            known=wanted,
        )
    if found == wanted:
        return found
    if found:
        for step in MIGRATIONS[found - 1 :]:
            step(connection)
    METADATA.create_all(connection)
    connection.execute(_VERSION.delete())
    connection.execute(_VERSION.insert().values(version=wanted, release=release))
    return found
