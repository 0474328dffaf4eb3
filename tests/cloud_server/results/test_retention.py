"""What the log forgets, and what it still knows of it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from sqlalchemy import Connection, text

from cloud_server.database import Database
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
