"""Who gets which frame: the least loaded worker; and a suspect has its worker to itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from cloud_server.engine import EngineFrame
from cloud_server.engine.waiting import Job, Waiting


@dataclass(eq=False)
class Place:
    jobs: dict[int, Job] = field(default_factory=dict)


@pytest.fixture
async def jobs() -> list[Job]:
    """Twelve frames, in the order of their ids from 1 on."""
    loop = asyncio.get_running_loop()
    return [Job(n, EngineFrame(()), loop.create_future(), 9.0, 0.0) for n in range(1, 13)]


def hand_out(waiting: Waiting, places: list[Place]) -> None:
    while (chosen := waiting.next(places)) is not None:
        place, job = chosen
        place.jobs[job.id] = job


def held(places: list[Place]) -> list[list[int]]:
    return [list(place.jobs) for place in places]


async def test_the_least_loaded_gets_the_next_and_no_more_than_it_can_have(
    jobs: list[Job],
) -> None:
    waiting, places = Waiting(capacity=2), [Place(), Place({0: jobs[11]})]
    for job in jobs[:6]:
        waiting.add(job)
    hand_out(waiting, places)
    assert held(places) == [[1, 2], [0, 3]] or held(places) == [[1, 3], [0, 2]]
    assert [job.id for job in waiting] == [4, 5, 6]
    assert len(waiting) == 3


async def test_suspects_go_first_one_by_one_while_the_others_go_on(jobs: list[Job]) -> None:
    waiting = Waiting(capacity=3)
    left, right = Place({10: jobs[9]}), Place({11: jobs[10], 12: jobs[11]})
    places = [left, right]
    for job in jobs[4:8]:
        waiting.add(job)
    for number, job in enumerate(jobs[:3]):
        job.given_at = float(number)
    waiting.add_again(reversed(jobs[:3]))
    assert [job.id for job in waiting] == [1, 2, 3, 5, 6, 7, 8]
    hand_out(waiting, places)
    # The least loaded is kept free for the first suspect, and the other takes what it can.
    assert held(places) == [[10], [11, 12, 5]]
    left.jobs.clear()
    hand_out(waiting, places)
    assert held(places) == [[1], [11, 12, 5]], "alone, however much waits"
    right.jobs.clear()
    hand_out(waiting, places)
    assert held(places) == [[1], [2]], "a worker without frames takes the next suspect"
    right.jobs.clear()
    left.jobs.clear()
    hand_out(waiting, places)
    assert held(places) == [[3], [6, 7, 8]]


async def test_what_nobody_waits_for_is_taken_out(jobs: list[Job]) -> None:
    waiting = Waiting(capacity=1)
    waiting.add(jobs[0])
    waiting.add_again([jobs[1]])
    for job in (jobs[0], jobs[1], jobs[2]):
        waiting.remove(job)
    assert len(waiting) == 0
    assert waiting.next([Place()]) is None
