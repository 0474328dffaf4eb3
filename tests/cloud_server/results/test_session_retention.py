"""Sessions that nobody comes back to are forgotten; one that does finds its numbers in order."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import Connection, func, select, text

from cloud_server.database import Database
from cloud_server.database.schema import SESSIONS, SUBMISSIONS
from cloud_server.results.log import ResultLog
from cloud_server.results.retention import Limits, Retention
from tests.support.logs import KEY, Open, V, accept, outcome, take

ALL = Limits(max_age_s=0.001, max_idle_s=0.001)


async def sessions(log: ResultLog) -> list[str]:
    def query(connection: Connection) -> list[str]:
        return list(connection.execute(select(SESSIONS.c.session).order_by("id")).scalars())

    return await log.database.read(query)


async def done(log: ResultLog, *sequences: int) -> None:
    for sequence in sequences:
        await log.complete(await take(log, sequence), outcome("cat"))
    await asyncio.sleep(0.01)


async def test_an_idle_session_of_which_nothing_is_kept_goes(open_log: Open) -> None:
    log = open_log()
    await log.resume_after(KEY)
    await done(log, 1, 2, 4)  # 4 stays marked above the floor
    assert await Retention(log, Limits(max_idle_s=0.001)).run_once() == 0, "it has results"
    assert await Retention(log, Limits(max_age_s=0.001, max_idle_s=60)).run_once() == 3
    assert await sessions(log) == [KEY[1]], "it is not idle"
    assert await Retention(log, ALL).run_once() == 1
    assert await sessions(log) == []
    marks = await log.database.read(
        lambda one: one.execute(select(func.count()).select_from(SUBMISSIONS)).scalar_one()
    )
    assert marks == 0


async def test_a_session_with_a_frame_without_its_result_stays(log: ResultLog) -> None:
    await take(log, 1)
    await asyncio.sleep(0.01)
    assert await Retention(log, ALL).run_once() == 0
    assert await sessions(log) == [KEY[1]]
    assert [one.sequence for one in await log.pending()] == [1]


async def test_a_session_in_use_stays(log: ResultLog) -> None:
    await done(log, 1)
    retention = Retention(log, ALL, sessions_in_use=lambda: frozenset([KEY]))
    assert await retention.run_once() == 1  # its result
    assert await sessions(log) == [KEY[1]]
    assert await log.resume_after(KEY) == (1, 1)


@pytest.mark.parametrize("restarted", [False, True])
async def test_a_device_that_comes_back_later_goes_on_with_its_numbers(
    open_log: Open, restarted: bool
) -> None:
    log = open_log()
    await done(log, 1, 2, 3)
    assert await Retention(log, ALL).run_once() == 4
    if restarted:
        log = open_log()
    # It knows its three results, and has frames of its spool to send.
    assert await log.resume_after(KEY, seen=3) == (0, 3)
    record = await log.complete(await take(log, 4), outcome("dog"))
    assert (record.result_id, record.cursor) == (4, 4)
    assert not (await accept(log, KEY, 4, V, b"m")).new
    assert [one.result_id for one in await log.results_after(KEY, 3, 10)] == [4]
    # What it claims of a session that is known changes nothing.
    assert await log.resume_after(KEY, seen=77) == (0, 4)


async def test_no_claim_of_a_device_makes_numbers_run_out(log: ResultLog) -> None:
    _, last = await log.resume_after(KEY, seen=2**63 - 1)
    record = await log.complete(await take(log, 1), outcome("cat"))
    assert record.result_id == last + 1


async def test_sessions_of_an_older_database_count_as_seen_when_it_is_migrated(url: str) -> None:
    database = Database(url)
    ResultLog(database, window=10)

    def age(connection: Connection) -> None:
        connection.execute(
            text(
                "INSERT INTO sessions (id, device, session, first_seen_at, floor,"
                " forgotten_result_id, last_seen_at) VALUES (1, 'old', 'one', 1, 9, 7, 1)"
            )
        )
        connection.execute(text("ALTER TABLE sessions DROP COLUMN last_seen_at"))
        for index in ("ix_submissions_group", "ix_submissions_forgotten"):
            connection.execute(text(f"DROP INDEX {index}"))
        for column in ("group_start", "forgotten"):
            connection.execute(text(f"ALTER TABLE submissions DROP COLUMN {column}"))
        connection.execute(text("UPDATE featherwire_schema SET version = 1"))

    await database.write(age)
    database.close()
    database = Database(url)
    assert database.version_found == 1
    log = ResultLog(database, window=10)
    assert await Retention(log, Limits(max_idle_s=60)).run_once() == 0
    assert await log.resume_after(("old", "one")) == (9, 7)
    database.close()
