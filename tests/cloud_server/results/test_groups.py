"""Groups of pictures in the log: what a kept frame is predicted from stays as long as it does."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select

from cloud_server.database.schema import SUBMISSIONS
from cloud_server.results.log import ResultLog
from cloud_server.results.records import Accepted, NewFrame
from cloud_server.results.retention import Limits, Retention, stored_bytes
from tests.support.logs import KEY, Open, V, accept, outcome, take


async def predicted(log: ResultLog, sequence: int, group: int) -> Accepted:
    return await accept(
        log, KEY, sequence, V, b"frame %d" % sequence,
        refers_to=(sequence - 1,), group_start=group,
    )  # fmt: skip


async def done(log: ResultLog, accepted: Accepted) -> None:
    assert accepted.submission is not None
    await log.complete(accepted.submission, outcome("cat"))


async def kept(log: ResultLog) -> list[int]:
    """Sequences whose features the log has, for whatever reason."""
    query = select(SUBMISSIONS.c.sequence).where(SUBMISSIONS.c.message.is_not(None))
    return sorted(await log.database.read(lambda one: one.execute(query).scalars().all()))


async def test_a_group_goes_when_its_last_frame_does(open_log: Open) -> None:
    log = open_log()
    await log.complete(await take(log, 1), outcome("cat"))
    for sequence in (2, 3):
        await done(log, await predicted(log, sequence, 1))
    late = await predicted(log, 4, 1)  # has no result yet
    await log.complete(await take(log, 5), outcome("cat"))  # the next group
    await done(log, await predicted(log, 6, 5))
    await asyncio.sleep(0.01)
    assert await Retention(log, Limits(max_age_s=0.001)).run_once() == 5
    assert await kept(log) == [1, 2, 3, 4]
    # Nobody else sees what is kept for the fourth alone, neither in this process nor the next.
    for reopened in (False, True):
        log = open_log() if reopened else log
        assert await log.frame_messages(KEY, 2) == []
        assert [each.sequence for each in await log.pending()] == [4]
        assert await accept(log, KEY, 2, V, b"again") == Accepted(None, new=False)
        assert [number for number, _ in await log.frames_back(KEY, 4)] == [4, 3, 2, 1]
    await done(log, late)
    await asyncio.sleep(0.01)
    assert await Retention(log, Limits(max_age_s=0.001)).run_once() == 1
    assert await kept(log) == []
    assert await log.database.read(stored_bytes) == 0


async def test_bytes_that_are_held_are_not_counted_as_freed(open_log: Open) -> None:
    log = open_log()
    await accept(log, KEY, 1, V, b"x" * 10_000)
    for sequence in range(2, 60):
        await done(log, await predicted(log, sequence, 1 if sequence < 40 else 40))
    await done(log, await accept(log, KEY, 60, V, b"x"))
    retention = Retention(log, Limits(max_bytes=2000))
    await retention.run_once()
    # The first frame has no result, so it stays, and takes more than there is room for.
    assert await log.database.read(stored_bytes) == 10_000
    assert await kept(log) == [1]


async def test_what_refers_to_a_forgotten_frame_is_not_taken(open_log: Open) -> None:
    log = open_log()
    await log.complete(await take(log, 1), outcome())
    await asyncio.sleep(0.01)
    await Retention(log, Limits(max_age_s=0.001)).run_once()
    frames = [
        NewFrame(2, V, b"two", refers_to=(1,), group_start=1),
        NewFrame(3, V, b"three", refers_to=(2,), group_start=1),
        NewFrame(4, V, b"four"),
        NewFrame(5, V, b"five", refers_to=(4,), group_start=4),
    ]
    accepted = await log.accept(KEY, frames)
    assert [(one.new, one.lost) for one in accepted] == [
        (False, True), (False, True), (True, False), (True, False),
    ]  # fmt: skip


@pytest.mark.parametrize("refined", [False, True])
async def test_refinements_go_with_their_results(open_log: Open, refined: bool) -> None:
    log = open_log()
    first = await take(log, 1)
    if refined:
        layers = await log.accept_refinement(KEY, 1, (b"", 1), b"layers", lambda _: None)
        await done(log, layers)
    await predicted(log, 2, 1)
    await log.complete(first, outcome())
    await asyncio.sleep(0.01)
    await Retention(log, Limits(max_age_s=0.001)).run_once()
    query = select(SUBMISSIONS.c.message).where(SUBMISSIONS.c.message.is_not(None))
    there = await log.database.read(lambda one: one.execute(query).scalars().all())
    assert {bytes(one) for one in there} == {b"frame 1", b"frame 2"}
