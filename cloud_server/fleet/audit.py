"""The audit: who did what to the fleet, written with what was done, and never changed.

And what the fleet forgets: answered commands and entries of the audit, by age and by number. The
newest row of a table always stays: numbers go on behind it, and those who read behind a number must
not meet it again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Table, delete, func, insert, select

from cloud_server.database import Database
from cloud_server.database.schema import AUDIT, COMMANDS, now_us
from cloud_server.telemetry.metrics import Metrics

MAX_WHAT_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One action; ``at`` is microseconds since 1970, ``what`` JSON."""

    id: int
    at: int
    who: str
    action: str
    what: str


def note(connection: Connection, who: str, action: str, what: Mapping[str, Any]) -> None:
    """Add an entry; ``what`` is JSON-ready, and a long one is cut."""
    text = json.dumps(what, default=str)
    if len(text) > MAX_WHAT_CHARACTERS:
        text = json.dumps({"cut": text[:MAX_WHAT_CHARACTERS]})
    connection.execute(insert(AUDIT).values(at=now_us(), who=who[:256], action=action, what=text))


def entries(
    connection: Connection, after: int, count: int, *, newest_first: bool = False
) -> list[AuditEntry]:
    """At most ``count`` entries behind the id ``after``, in order; newest first those before it,
    where 0 is the end."""
    query = select(AUDIT)
    if not newest_first:
        query = query.where(AUDIT.c.id > after).order_by(AUDIT.c.id)
    elif after:
        query = query.where(AUDIT.c.id < after).order_by(AUDIT.c.id.desc())
    else:
        query = query.order_by(AUDIT.c.id.desc())
    rows = connection.execute(query.limit(count))
    return [AuditEntry(row.id, row.at, row.who, row.action, row.what) for row in rows]


BATCH = 500
"""Rows of one commit, so that frames never wait long for it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is kept; None is no limit. The age of a command is that of its reply."""

    audit_age_s: float | None = None
    audit_entries: int | None = None
    command_age_s: float | None = None
    commands: int | None = None
    """Answered ones; those that a device has not answered stay, and are not counted."""


class FleetRetention:
    """Forgets what the limits do not allow."""

    def __init__(self, database: Database, limits: Limits, metrics: Metrics | None = None) -> None:
        self._database = database
        self._limits = limits
        self._metrics = metrics or Metrics()

    async def run_once(self) -> int:
        """Forget all that is too much now; returns how many rows. Raises ``StorageError``."""
        limits = self._limits
        return await self._forget("audit", AUDIT, limits.audit_age_s, limits.audit_entries) + (
            await self._forget("command", COMMANDS, limits.command_age_s, limits.commands)
        )

    async def _forget(
        self, reason: str, table: Table, max_age_s: float | None, max_rows: int | None
    ) -> int:
        before_us = None if max_age_s is None else now_us() - round(max_age_s * 1e6)
        total = 0
        while count := await self._database.write(
            lambda connection: forget(connection, table, before_us, max_rows)
        ):
            total += count
            self._metrics.forgotten.labels(reason).inc(count)
        return total


def forget(
    connection: Connection, table: Table, before_us: int | None, max_rows: int | None
) -> int:
    """A batch of the oldest rows of ``AUDIT``, or of commands with a reply; returns how many."""
    time = table.c.at if table is AUDIT else table.c.replied_at
    # A command without a reply has no time, and NULL is not before anything.
    newest = select(func.max(table.c.id)).scalar_subquery()
    candidates = select(table.c.id).where(time.is_not(None), table.c.id < newest)
    gone: set[int] = set()
    if before_us is not None:
        query = candidates.where(time < before_us).order_by(table.c.id).limit(BATCH)
        gone |= set(connection.execute(query).scalars())
    if max_rows is not None:
        held = connection.execute(
            select(func.count()).select_from(table).where(time.is_not(None))
        ).scalar_one()
        if held > max_rows:
            query = candidates.order_by(table.c.id).limit(min(held - max_rows, BATCH))
            gone |= set(connection.execute(query).scalars())
    connection.execute(delete(table).where(table.c.id.in_(gone)))
    return len(gone)
