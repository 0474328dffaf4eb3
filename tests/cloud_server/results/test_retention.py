"""What the log forgets, and what it still knows of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import Connection, func, select, text, update

from cloud_server.database import Database
from cloud_server.database.schema import RESULTS, SESSIONS, now_us
from cloud_server.results.log import ResultLog
from cloud_server.results.records import Accepted, Filter
from cloud_server.results.retention import Limits, Retention, stored_bytes
from tests.support.logs import KEY, Open, V, accept, outcome, take


async def cursors(log: ResultLog) -> list[int]:
    return [one.cursor for one in (await log.read(Filter(), 0, 10_000)).records]


async def test_the_oldest_beyond_the_bytes_are_forgotten_with_their_frames(open_log: Open) -> None:
    log = open_log()
    for sequence in range(1, 301):
        accepted = await accept(log, KEY, sequence, V, b"x" * 1000)
        if sequence != 5:  # this one has no result yet
            assert accepted.submission is not None
            await log.complete(accepted.submission, outcome("cat"))
    retention = Retention(log, Limits(max_bytes=50_000))
    forgotten = await retention.run_once()
    kept = await cursors(log)
    assert kept == list(range(forgotten + 1, 300))
    assert 20 < len(kept) < 50
    assert 45_000 < await log.database.read(stored_bytes) <= 50_000
    assert retention.counts.results == {"age": 0, "bytes": forgotten}
    assert retention.counts.bytes["bytes"] > 200_000
    assert await log.frame_messages(KEY, 10) == []
    assert await log.forgotten_cursor() == forgotten
    assert [one.sequence for one in await log.pending()] == [5]
    # More comes, and the count goes on where it was.
    for sequence in range(301, 311):
        await log.complete(await take(log, sequence), outcome("cat", filler=1000))
    assert await retention.run_once() > 5
    assert await log.database.read(stored_bytes) <= 50_000
    assert await retention.run_once() == 0
    # What was forgotten is not taken again.
    for reopened in (False, True):
        one = open_log() if reopened else log
        assert await accept(one, KEY, 10, V, b"m") == Accepted(None, new=False)
        assert await one.resume_after(KEY) == (310, 309)


async def test_a_log_that_has_forgotten_all_goes_on_counting(open_log: Open) -> None:
    log = open_log()
    for sequence in (1, 2, 4):
        await log.complete(await take(log, sequence), outcome("cat"))
    await asyncio.sleep(0.01)
    retention = Retention(log, Limits(max_age_s=0.001))
    assert await retention.run_once() == 3
    assert retention.counts.results == {"age": 3, "bytes": 0}
    log = open_log()
    assert await cursors(log) == []
    assert await log.resume_after(KEY) == (2, 3)
    assert not (await accept(log, KEY, 4, V, b"m")).new
    record = await log.complete(await take(log, 3), outcome("dog"))  # late, and new all the same
    assert (record.cursor, record.result_id) == (4, 4)
    assert log.feed.last == 4
    assert await log.resume_after(KEY) == (4, 4)


async def test_a_refinement_of_a_forgotten_frame_finds_nothing(log: ResultLog) -> None:
    frame = await take(log, 1)
    accepted = await log.accept_refinement(KEY, 1, (b"", 1), b"refine", lambda messages: None)
    await log.complete(frame, outcome())
    await asyncio.sleep(0.01)
    assert await Retention(log, Limits(max_age_s=0.001)).run_once() == 1
    assert accepted.submission is not None
    assert await log.attempt(accepted.submission) == (1, [])  # its result will say so
    seen: list[object] = []
    await log.accept_refinement(KEY, 1, (b"", 0), b"more", seen.append)
    assert seen == [[]]


async def test_the_file_of_sqlite_shrinks(tmp_path: Path) -> None:
    log = ResultLog(Database(f"sqlite:///{tmp_path}/log.db"), window=1000)
    for sequence in range(1, 101):
        await log.complete(await take(log, sequence), outcome("cat", filler=20_000))

    async def size_bytes() -> int:
        def pages(connection: Connection) -> int:
            of_file, size = (
                connection.execute(text(f"PRAGMA {name}")).scalar_one()
                for name in ("page_count", "page_size")
            )
            return int(of_file * size)

        return await log.database.write(pages)

    before = await size_bytes()
    await Retention(log, Limits(max_bytes=100_000)).run_once()
    assert before > 2_000_000
    assert await size_bytes() < 500_000
    log.database.close()


async def test_without_limits_nothing_is_forgotten(log: ResultLog) -> None:
    await log.complete(await take(log, 1), outcome("cat"))
    assert await Retention(log, Limits()).run_once() == 0
    assert await cursors(log) == [1]


async def dated(log: ResultLog, *times_s: float) -> None:
    """A result for each time (seconds from now), in this order, as if the clock had shown it."""
    for sequence, seconds in enumerate(times_s, 1):
        await log.complete(await take(log, sequence), outcome("cat"))
        at = now_us() + round(seconds * 1e6) if seconds > -1e9 else 1_000_000

        def change(connection: Connection, at: int = at) -> None:
            newest = select(func.max(RESULTS.c.cursor)).scalar_subquery()
            connection.execute(
                update(RESULTS).where(RESULTS.c.cursor == newest).values(completed_at=at)
            )

        await log.database.write(change)


YEAR, UNSET = 365 * 86400.0, -2e9
"""UNSET: a clock that began in 1970."""


@pytest.mark.parametrize(
    ("times_s", "kept"),
    [
        # One from "the future", then old ones, then a young one: it is older than those after it.
        ((YEAR, -500, -400, -1), [4]),
        ((-500, 30 * 86400, -400, YEAR), [4]),
        # Nobody knows how old these are yet.
        ((YEAR, 2 * YEAR), [1, 2]),
        ((UNSET, UNSET, -1), [1, 2, 3]),
        # The machine started without a clock, which was set later.
        ((UNSET, UNSET, -500, -1), [4]),
        ((-1, UNSET, -500), [1, 2, 3]),
    ],
)
async def test_a_clock_that_was_wrong_neither_keeps_nor_forgets(
    log: ResultLog, times_s: tuple[float, ...], kept: list[int]
) -> None:
    await dated(log, *times_s)
    await Retention(log, Limits(max_age_s=100)).run_once()
    assert await cursors(log) == kept


async def test_many_from_the_future_do_not_hide_those_behind_them(log: ResultLog) -> None:
    await dated(log, *[YEAR] * 250, -500, -500)
    assert await Retention(log, Limits(max_age_s=100)).run_once() == 252


async def test_a_session_seen_by_a_wrong_clock_is_as_good_as_seen_now(log: ResultLog) -> None:
    """Or a device that was away while the clock was set would be counted anew."""
    await dated(log, -500)
    limits = Limits(max_age_s=100, max_idle_s=1000)
    for wrong in (5_000_000, now_us() + round(YEAR * 1e6)):

        def change(connection: Connection, wrong: int = wrong) -> None:
            connection.execute(update(SESSIONS).values(last_seen_at=wrong))

        await log.database.write(change)
        await Retention(log, limits).run_once()
        assert await log.resume_after(KEY) == (1, 1)
    assert await Retention(log, Limits(max_idle_s=0)).run_once() == 1
