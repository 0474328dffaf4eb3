"""What the log forgets: the oldest results, with their frames, by age and by bytes; and sessions
that are idle and of which nothing is left.

A frame's features stay, for the server alone, as long as a frame that is kept is predicted from
them: a group of pictures goes when the last of it does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import structlog
from sqlalchemy import Connection, and_, delete, exists, func, or_, select, update

from cloud_server.database.schema import RESULTS, SESSIONS, SUBMISSIONS, TERMS, now_us
from cloud_server.results import queries
from cloud_server.results.log import ResultLog
from cloud_server.results.records import SessionKey
from cloud_server.telemetry.metrics import Metrics
from shared.errors import StorageError
from shared.limits import CLOCK_SET_S

BATCH = 200
"""Results of one commit, so that frames never wait long for it."""

SEARCHED = 10_000
"""Results that are found to be too old before the first are forgotten."""

PASS_EVERY_S = 30.0

CLOCK_SET_US = CLOCK_SET_S * 1_000_000

PAGES_AT_ONCE = 500
"""How many free pages SQLite gives back to the disk in one commit."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What is kept; None is no limit. Bytes are those of messages and outcomes.

    ``max_idle_s``: of sessions.
    """

    max_age_s: float | None = None
    max_bytes: int | None = None
    max_idle_s: float | None = None


@dataclass(slots=True)
class Counts:
    """What was forgotten since the server started, by reason."""

    results: dict[str, int] = field(default_factory=lambda: {"age": 0, "bytes": 0})
    bytes: dict[str, int] = field(default_factory=lambda: {"age": 0, "bytes": 0})


class Retention:
    """Forgets in the background what the limits do not allow. Frames without a result stay."""

    def __init__(
        self,
        log: ResultLog,
        limits: Limits,
        *,
        every_s: float = PASS_EVERY_S,
        metrics: Metrics | None = None,
        sessions_in_use: Callable[[], frozenset[SessionKey]] = frozenset,
        further: Sequence[Callable[[], Awaitable[int]]] = (),
        ours: Callable[[], bool] = lambda: True,
    ) -> None:
        """further: what else is to forget at every pass; each returns how much it did. ours:
        whether this server does it, where several share the log."""
        self._ours = ours
        self._sessions_in_use = sessions_in_use
        self._further = further
        self._metrics = metrics or Metrics()
        self._log = log
        self._limits = limits
        self._every_s = every_s
        self.counts = Counts()
        # What the log held when it was last added up, less what has been forgotten since; what had
        # been added to it by then; and how many commits had failed.
        self._held_bytes = 0
        self._added_before = 0
        self._failures_seen = -1

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                if self._ours():
                    await self.run_once()
            except StorageError as error:
                structlog.get_logger().error("retention_failed", **error.to_dict())
            await asyncio.sleep(self._every_s)

    async def run_once(self) -> int:
        """Forget all that is too much now; returns how much. Raises ``StorageError``."""
        total = 0
        if self._limits.max_age_s is not None:
            oldest_us = now_us() - round(self._limits.max_age_s * 1e6)
            # Searched in a read, which holds up no frame, and deleted in small pieces.
            search = partial(_last_too_old, before_us=oldest_us)
            while last := await self._log.database.read(search):
                before = total
                while count := await self._forget("age", last, None):
                    total += count
                if total == before:
                    break
        if self._limits.max_bytes is not None:
            excess = await self._stored() - self._limits.max_bytes
            while excess > 0:
                before = self.counts.bytes["bytes"]
                count = await self._forget("bytes", None, excess)
                if count == 0:
                    break
                total += count
                excess -= self.counts.bytes["bytes"] - before
        if self._limits.max_idle_s is not None:
            while count := await self._forget_sessions(self._limits.max_idle_s):
                total += count
        for forget in self._further:
            total += await forget()
        if total:
            while await self._log.database.write(_give_pages_back):
                pass
            structlog.get_logger().info("forgotten", rows=total)
        return total

    async def _forget(self, reason: str, last: int | None, excess: int | None) -> int:
        """A batch of the oldest results: up to the cursor ``last``, or of ``excess`` bytes."""

        def change(connection: Connection) -> tuple[int, int, int]:
            chosen, size_bytes = [], 0
            for row in connection.execute(_OLDEST.limit(BATCH)).all():
                if last is not None and row.cursor > last:
                    break
                if excess is not None and size_bytes >= excess:
                    break
                chosen.append(row)
                size_bytes += row.size_bytes
            cursor = chosen[-1].cursor if chosen else 0
            freed_bytes = self._delete(connection, cursor) if chosen else 0
            return len(chosen), freed_bytes, cursor

        count, size_bytes, cursor = await self._log.database.write(change)
        self._log.feed.forget(cursor)
        self.counts.results[reason] += count
        self._metrics.forgotten.labels(reason).inc(count)
        self.counts.bytes[reason] += size_bytes
        self._held_bytes -= size_bytes
        return count

    async def _forget_sessions(self, max_idle_s: float) -> int:
        """A batch of sessions that were last seen so long ago, and have no frame or result.

        A stream that begins meanwhile has its session seen before this, or begins a new one.
        """
        in_use = self._sessions_in_use()
        now = now_us()
        before_us = now - round(max_idle_s * 1e6)

        def change(connection: Connection) -> int:
            if now >= CLOCK_SET_US:
                # Those that were seen while the clock was wrong have been seen just now.
                wrong = or_(SESSIONS.c.last_seen_at < CLOCK_SET_US, SESSIONS.c.last_seen_at > now)
                seen = update(SESSIONS).where(wrong, SESSIONS.c.last_seen_at != 0)
                connection.execute(seen.values(last_seen_at=now))
            rows = connection.execute(
                _IDLE.where(SESSIONS.c.last_seen_at < before_us).limit(BATCH + len(in_use))
            ).all()
            gone = {row.id: (row.device, row.session) for row in rows}
            gone = {id_: key for id_, key in gone.items() if key not in in_use}
            # Marks of frames that came out of order are of no use without the session's floor.
            connection.execute(delete(SUBMISSIONS).where(SUBMISSIONS.c.session_id.in_(gone)))
            connection.execute(delete(SESSIONS).where(SESSIONS.c.id.in_(gone)))
            self._log.counters.forget(gone.values())
            return len(gone)

        count = await self._log.database.write(change)
        self._metrics.forgotten.labels("session").inc(count)
        return count

    async def _stored(self) -> int:
        """Bytes in the log: added up once, and again when a commit has failed, else counted."""
        writer = self._log.database.writer
        failures = writer.failures + writer.foreign_commits
        if failures != self._failures_seen:
            self._added_before = self._log.added_bytes
            self._held_bytes = await self._log.database.read(stored_bytes)
            self._failures_seen = failures
        return self._held_bytes + self._log.added_bytes - self._added_before

    def _delete(self, connection: Connection, cursor: int) -> int:
        """Forget results up to the cursor; returns how many bytes less there are then."""
        gone = RESULTS.c.cursor <= cursor
        sessions = connection.execute(
            select(
                RESULTS.c.session_id,
                func.max(RESULTS.c.result_id).label("result_id"),
                func.max(RESULTS.c.completed_at).label("completed_at"),
                func.sum(RESULTS.c.outcome_bytes).label("outcome_bytes"),
            )
            .where(gone)
            .group_by(RESULTS.c.session_id)
        ).all()
        connection.execute(
            update(SUBMISSIONS)
            .where(SUBMISSIONS.c.id.in_(select(RESULTS.c.submission_id).where(gone)))
            .values(forgotten=1)
        )
        ids = [row.session_id for row in sessions]
        free = and_(SUBMISSIONS.c.session_id.in_(ids), SUBMISSIONS.c.forgotten == 1, ~_NEEDED)
        freed_bytes: int = sum(row.outcome_bytes for row in sessions) + (
            connection.execute(select(func.sum(SUBMISSIONS.c.message_bytes)).where(free)).scalar()
            or 0
        )
        connection.execute(
            update(SUBMISSIONS).where(free).values(message=None, message_bytes=0, forgotten=0)
        )
        connection.execute(delete(TERMS).where(TERMS.c.cursor <= cursor))
        connection.execute(delete(RESULTS).where(gone))
        queries.forget_up_to(connection, cursor)
        for row in sessions:
            connection.execute(
                update(SESSIONS)
                .where(SESSIONS.c.id == row.session_id)
                .values(forgotten_result_id=row.result_id)
            )
            connection.execute(
                update(SESSIONS)
                .where(SESSIONS.c.id == row.session_id, SESSIONS.c.last_seen_at < row.completed_at)
                .values(last_seen_at=row.completed_at)
            )
        self._log.counters.raise_floors(connection, ids)
        # Below the floor a frame is known without its row.
        connection.execute(
            delete(SUBMISSIONS).where(
                SUBMISSIONS.c.session_id.in_(ids),
                SUBMISSIONS.c.message.is_(None),
                exists().where(
                    and_(
                        SESSIONS.c.id == SUBMISSIONS.c.session_id,
                        SESSIONS.c.floor >= SUBMISSIONS.c.sequence,
                    )
                ),
            )
        )
        return freed_bytes


_LATER = SUBMISSIONS.alias()

_NEEDED = and_(
    SUBMISSIONS.c.number == 0,
    exists().where(
        _LATER.c.session_id == SUBMISSIONS.c.session_id,
        _LATER.c.group_start <= SUBMISSIONS.c.sequence,
        _LATER.c.sequence > SUBMISSIONS.c.sequence,
        _LATER.c.message.is_not(None),
        _LATER.c.forgotten == 0,
    ),
)
"""That a frame which is kept cannot be decoded without the submission."""


def _last_too_old(connection: Connection, before_us: int) -> int:
    """The cursor of the last result, of some thousands, that was completed before then; 0: of none.

    Results are stored in the order of their completion, whatever the clock said: it may have been
    wrong when the server's machine started, and have been set since. So one that is dated before
    any clock that was set, or ahead of now, is as old as the next one with a date: it neither ends
    the search nor goes by itself.
    """
    latest_us = now_us()
    earliest_us = CLOCK_SET_US if latest_us >= CLOCK_SET_US else 0
    last = dated = 0
    for row in connection.execute(_TIMES.execution_options(yield_per=BATCH)):
        if not earliest_us <= row.completed_at <= latest_us:
            continue
        if row.completed_at >= before_us:
            break
        last, dated = row.cursor, dated + 1
        if dated >= SEARCHED:
            break
    return last


_TIMES = select(RESULTS.c.cursor, RESULTS.c.completed_at).order_by(RESULTS.c.cursor)


_OLDEST = (
    select(
        RESULTS.c.cursor,
        RESULTS.c.completed_at,
        (RESULTS.c.outcome_bytes + SUBMISSIONS.c.message_bytes).label("size_bytes"),
    )
    .join_from(RESULTS, SUBMISSIONS, RESULTS.c.submission_id == SUBMISSIONS.c.id)
    .order_by(RESULTS.c.cursor)
)


_IDLE = select(SESSIONS.c.id, SESSIONS.c.device, SESSIONS.c.session).where(
    ~exists().where(RESULTS.c.session_id == SESSIONS.c.id),
    ~exists().where(SUBMISSIONS.c.session_id == SESSIONS.c.id, SUBMISSIONS.c.message.is_not(None)),
)


def stored_bytes(connection: Connection) -> int:
    """Bytes of all messages and outcomes that are kept."""
    messages = connection.execute(select(func.sum(SUBMISSIONS.c.message_bytes))).scalar()
    outcomes = connection.execute(select(func.sum(RESULTS.c.outcome_bytes))).scalar()
    return int(messages or 0) + int(outcomes or 0)


def _give_pages_back(connection: Connection) -> bool:
    """SQLite keeps the pages of what was deleted in its file until this. False: no more."""
    if connection.dialect.name != "sqlite":
        return False
    free = connection.exec_driver_sql("PRAGMA freelist_count").scalar_one()
    for _ in range(min(free, PAGES_AT_ONCE)):
        # Python takes one step of a statement without columns, and a step frees a page.
        connection.exec_driver_sql("PRAGMA incremental_vacuum(1)")
    return bool(free > PAGES_AT_ONCE)
