"""Tokens in the server's database. Times are microseconds since 1970, UTC."""

from __future__ import annotations

from sqlalchemy import Column, LargeBinary, String, Table, Text

from cloud_server.database.schema import METADATA, Number

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
