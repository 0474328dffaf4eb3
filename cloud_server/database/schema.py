"""Every table of the server's database, the schema's version, and the steps from older ones.

Times are microseconds since 1970, UTC.

Tables of the log: a *submission* is one message of a device: a frame (number 0), or a refinement of
it (1, 2, ...), kept as it was received. Each has at most one *result*, which is never changed. A
submission whose result was forgotten stays, without its message, as long as it is needed to know
the frame when it is sent again; and with its message as long as frames that are kept are predicted
from it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    inspect,
    text,
)

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


def now_us() -> int:
    """Now, in microseconds since 1970."""
    return time.time_ns() // 1000


# -- the log ---------------------------------------------------------------------------------------

SESSIONS = Table(
    "sessions",
    METADATA,
    Column("id", Number, primary_key=True, autoincrement=False),
    Column("device", String(128), nullable=False),
    Column("session", String(128), nullable=False),
    Column("first_seen_at", Number, nullable=False),
    # Every frame up to this sequence counts as accepted, whether there is a row or not.
    Column("floor", Number, nullable=False),
    # The last result that was forgotten.
    Column("forgotten_result_id", Number, nullable=False),
    # When a stream of it last began, or the newest result that was forgotten was made.
    Column("last_seen_at", Number, nullable=False),
    UniqueConstraint("device", "session"),
)

SUBMISSIONS = Table(
    "submissions",
    METADATA,
    Column("id", Number, primary_key=True, autoincrement=False),
    Column("session_id", Number, ForeignKey("sessions.id"), nullable=False),
    Column("sequence", Number, nullable=False),
    Column("number", Integer, nullable=False),
    Column("bundle", LargeBinary, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("captured_at", Number),
    Column("received_at", Number, nullable=False),
    # How often a server that started has tried again to get its result.
    Column("attempts", Integer, nullable=False),
    Column("message_bytes", Integer, nullable=False),
    # ingest.proto's Frame or Refine; null once forgotten.
    Column("message", LargeBinary),
    # Of a predicted frame: the first sequence that it cannot be decoded without.
    Column("group_start", Number),
    # 1: its result was forgotten, and its message is kept for what is predicted from it.
    Column("forgotten", SmallInteger, nullable=False, server_default="0"),
    UniqueConstraint("session_id", "sequence", "number"),
    Index(
        "ix_submissions_group",
        "session_id",
        "group_start",
        "sequence",
        sqlite_where=text("group_start IS NOT NULL"),
        postgresql_where=text("group_start IS NOT NULL"),
    ),
    Index(
        "ix_submissions_forgotten",
        "session_id",
        sqlite_where=text("forgotten = 1"),
        postgresql_where=text("forgotten = 1"),
    ),
)

RESULTS = Table(
    "results",
    METADATA,
    Column("cursor", Number, primary_key=True, autoincrement=False),
    Column("submission_id", Number, ForeignKey("submissions.id"), nullable=False, unique=True),
    Column("session_id", Number, ForeignKey("sessions.id"), nullable=False),
    Column("sequence", Number, nullable=False),
    Column("bundle", LargeBinary, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("result_id", Number, nullable=False),
    Column("captured_at", Number),
    Column("completed_at", Number, nullable=False),
    Column("outcome_bytes", Integer, nullable=False),
    # types.proto's FrameOutcome without its picture.
    Column("outcome", LargeBinary, nullable=False),
    UniqueConstraint("session_id", "result_id"),
    Index("ix_results_frame", "session_id", "sequence"),
)

TERMS = Table(
    "result_terms",
    METADATA,
    # What filters look for: "task:detection", "class:cat".
    Column("term", String(300), primary_key=True),
    Column("cursor", Number, ForeignKey("results.cursor"), primary_key=True, autoincrement=False),
    Index("ix_result_terms_cursor", "cursor"),
)

STATE = Table(
    "log_state",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Records up to this cursor were forgotten.
    Column("forgotten_cursor", Number, nullable=False),
)

# -- devices, the commands that they were given, and who did what ----------------------------------

DEVICES = Table(
    "devices",
    METADATA,
    Column("device", String(128), primary_key=True),
    Column("last_seen_at", Number, nullable=False),
    # fleet.proto's Device, as of when it was last written, with no rates; empty for one that was
    # forgotten, for a day.
    Column("described", LargeBinary, nullable=False),
)

COMMANDS = Table(
    "commands",
    METADATA,
    # In the order in which they were issued, over all devices.
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("device", String(128), nullable=False),
    # set_rate, set_tasks, set_regions, use_bundle, refine_frame, key_frame
    Column("kind", String(32), nullable=False),
    Column("issued_at", Number, nullable=False),
    Column("issued_by", String(256), nullable=False),
    # fleet.proto's Command without its id.
    Column("command", LargeBinary, nullable=False),
    Column("replied_at", Number),
    # fleet.proto's CommandReply; null until there is one.
    Column("reply", LargeBinary),
    Index("ix_commands_device_replied_at", "device", "replied_at"),
)

AUDIT = Table(
    "audit",
    METADATA,
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("at", Number, nullable=False),
    Column("who", String(256), nullable=False),
    # As fleet.proto's AuditEntry says.
    Column("action", String(64), nullable=False),
    # JSON of what it was done to and how.
    Column("what", Text, nullable=False),
)

# -- tokens ----------------------------------------------------------------------------------------

TOKENS = Table(
    "tokens",
    METADATA,
    # What people call it by; the first part of the token.
    Column("id", String(16), primary_key=True),
    # SHA-256 of the whole token.
    Column("hash", LargeBinary, nullable=False, unique=True),
    Column("role", String(16), nullable=False),
    # The one device that it is for; null for other roles.
    Column("device", String(128)),
    Column("name", String(128), nullable=False),
    # JSON object of the device's labels: those that it does not choose itself.
    Column("labels", Text, nullable=False),
    Column("created_at", Number, nullable=False),
    Column("expires_at", Number),
    Column("revoked_at", Number),
)

# -- servers that share a log; times by the database's clock ---------------------------------------

SERVERS = Table(
    "servers",
    METADATA,
    # A new one at every start.
    Column("id", String(36), primary_key=True),
    Column("started_at", Number, nullable=False),
    Column("alive_at", Number, nullable=False),
)

OWNERS = Table(
    "session_owners",
    METADATA,
    # Of a session that may have been forgotten since.
    Column("session_id", Number, primary_key=True, autoincrement=False),
    Column("server", String(36), nullable=False),
    Index("ix_session_owners_server", "server"),
)

LAST_WRITER = Table(
    "log_turn",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Who wrote last: what that server remembers of the log is true.
    Column("server", String(36), nullable=False),
    # How often sessions have gone from one server to another.
    Column("moves", Number, nullable=False),
)

# -- versions --------------------------------------------------------------------------------------


def _sessions_last_seen(connection: Connection) -> None:
    """Sessions know when they were last seen: those that are there, now."""
    connection.execute(
        text(f"ALTER TABLE sessions ADD COLUMN last_seen_at BIGINT NOT NULL DEFAULT {now_us()}")
    )


def _shared_logs(_connection: Connection) -> None:
    """Servers that share a log have new tables alone."""


def _groups_of_pictures(connection: Connection) -> None:
    """Frames say what they are predicted from: none of those that are there."""
    for column in ("group_start BIGINT", "forgotten SMALLINT DEFAULT 0 NOT NULL"):
        connection.execute(text(f"ALTER TABLE submissions ADD COLUMN {column}"))
    for index in SUBMISSIONS.indexes:
        index.create(connection)


MIGRATIONS: Sequence[Callable[[Connection], None]] = (
    _sessions_last_seen,
    _shared_logs,
    _groups_of_pictures,
)
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
