"""What was refused, in the audit: calls of strangers, of wrong roles, commands that cannot be.

Whoever is refused may try again as often as he likes, and each time for nothing. So what is refused
to one caller in the same words becomes an entry at once, and then one a minute at most, which says
how often; and so many at a time that are different, the rest together. Words may hold what a caller
chose, so one call of one caller has few of its own: nobody takes the places of all others.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from cloud_server.database import Database
from cloud_server.fleet.audit import note
from shared.errors import FeatherwireError

EVERY_S = 60.0
MAX_DIFFERENT = 64
MAX_WORDINGS = 8
"""So many different entries for one caller, call and reason; the rest of them are one."""
ACTION = "Refused"


_Key = tuple[str, str, str, str]
"""Who, call, reason, and the entry's text; empty where several are told together."""


@dataclass(slots=True)
class _Repeated:
    who: str
    what: dict[str, Any]
    times: int = field(default=0)


class Refusals:
    """Notes refusals in the audit. Used on the event loop alone."""

    def __init__(self, database: Database, *, every_s: float = EVERY_S) -> None:
        self._database = database
        self._every_s = every_s
        self._known: dict[_Key, _Repeated] = {}
        self._writes: set[asyncio.Task[None]] = set()
        self._minutes: asyncio.Task[None] | None = None

    def note(
        self, who: str, call: str, error: FeatherwireError, more: Mapping[str, Any] | None = None
    ) -> None:
        """``who`` was refused ``call`` (its name without the service's); more: JSON-ready."""
        what = {
            "call": call,
            "reason": error.reason,
            "message": error.message[:300],
            **(more or {}),
        }
        key = (who, call, error.reason, json.dumps(what, default=str))
        if key not in self._known:
            if sum(one[:3] == key[:3] for one in self._known) >= MAX_WORDINGS:
                key = (who, call, error.reason, "")
                what = {"call": call, "reason": error.reason, "message": "refused in other words"}
            if key not in self._known and len(self._known) >= MAX_DIFFERENT:
                key = ("several callers", "", "", "")
                what = {"call": "", "reason": "", "message": "calls of many kinds were refused"}
        known = self._known.get(key)
        if known is not None:
            known.times += 1
            return
        self._known[key] = _Repeated(key[0], what)
        self._write(key[0], what)
        if self._minutes is None:
            self._minutes = asyncio.ensure_future(self._flush_each_minute())

    async def close(self) -> None:
        """Write what is not written yet."""
        if self._minutes is not None:
            self._minutes.cancel()
        self._flush()
        while self._writes:
            await asyncio.wait(set(self._writes))

    async def _flush_each_minute(self) -> None:
        while self._known:
            await asyncio.sleep(self._every_s)
            self._flush()
        self._minutes = None

    def _flush(self) -> None:
        """Those that came again get an entry with how often; the others are forgotten here."""
        for key, one in list(self._known.items()):
            if one.times:
                self._write(one.who, {**one.what, "times": one.times})
                one.times = 0
            else:
                del self._known[key]

    def _write(self, who: str, what: dict[str, Any]) -> None:
        change = partial(note, who=who, action=ACTION, what=what)
        task = asyncio.ensure_future(self._database.write(change))
        self._writes.add(task)
        task.add_done_callback(self._written)

    def _written(self, task: asyncio.Task[None]) -> None:
        self._writes.discard(task)
        if not task.cancelled() and task.exception() is not None:
            structlog.get_logger().error("refusal_not_kept", error=str(task.exception()))
