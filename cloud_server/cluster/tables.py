"""Servers that share a log. Times: microseconds since 1970, by the database's clock."""

from __future__ import annotations

from sqlalchemy import Column, Index, Integer, String, Table

from cloud_server.database.schema import METADATA, Number

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

TURN = Table(
    "log_turn",
    METADATA,
    Column("id", Integer, primary_key=True, autoincrement=False),
    # Who wrote last: what that server remembers of the log is true.
    Column("server", String(36), nullable=False),
    # How often sessions have gone from one server to another.
    Column("moves", Number, nullable=False),
)
