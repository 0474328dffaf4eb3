"""Devices, the commands that they were given, and who did what. Times: microseconds since 1970."""

from __future__ import annotations

from sqlalchemy import Column, Index, LargeBinary, String, Table, Text

from cloud_server.database.schema import METADATA, Number

DEVICES = Table(
    "devices",
    METADATA,
    Column("device", String(128), primary_key=True),
    Column("last_seen_at", Number, nullable=False),
    # fleet.proto's Device, as of when it was last written, with no rates.
    Column("described", LargeBinary, nullable=False),
)

COMMANDS = Table(
    "commands",
    METADATA,
    # In the order in which they were issued, over all devices.
    Column("id", Number, primary_key=True, autoincrement=True),
    Column("device", String(128), nullable=False),
    # set_rate, set_tasks, set_regions, use_bundle, refine_frame
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
    # SendCommand, CommandReply, CreateToken, RevokeToken
    Column("action", String(64), nullable=False),
    # JSON of what it was done to and how.
    Column("what", Text, nullable=False),
)
