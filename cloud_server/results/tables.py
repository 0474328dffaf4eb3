"""Tables of the log. Times are microseconds since 1970, UTC.

A *submission* is one message of a device: a frame (number 0), or a refinement of it (1, 2, ...),
kept as it was received. Each has at most one *result*, which is never changed. A submission whose
result was forgotten stays, without its message, as long as it is needed to know the frame when it
is sent again.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    SmallInteger,
    String,
    Table,
    UniqueConstraint,
)

from cloud_server.database.schema import METADATA, Number

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
    UniqueConstraint("session_id", "sequence", "number"),
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
