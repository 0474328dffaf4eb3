"""Who did what to the fleet: written with what was done, in one transaction, and never changed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from cloud_server.auth.tokens import now_us
from cloud_server.database.schema import AUDIT

MAX_WHAT_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class Entry:
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
) -> list[Entry]:
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
    return [Entry(row.id, row.at, row.who, row.action, row.what) for row in rows]
