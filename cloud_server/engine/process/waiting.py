"""Frames that wait for a worker, and which worker gets which."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from cloud_server.engine.api import EngineFrame, EngineOutcome
from cloud_server.engine.rules import Deaths


@dataclass(slots=True, eq=False)
class Job:
    """A frame on its way; times are of ``time.monotonic``."""

    id: int
    frame: EngineFrame
    future: asyncio.Future[EngineOutcome]
    expires_at: float
    queued_at: float
    given_at: float = 0.0
    suspect: bool = False
    """It was with a worker that died: it goes to a worker that has no other frame."""
    deaths: Deaths = field(default_factory=Deaths)


class Place(Protocol):
    """A worker, as far as handing out needs it: the frames that it has."""

    @property
    def jobs(self) -> dict[int, Job]: ...


P = TypeVar("P", bound=Place)


@dataclass(slots=True)
class Waiting:
    """The queue. A worker has at most ``capacity`` frames at a time, a suspect is alone in its."""

    capacity: int
    _jobs: deque[Job] = field(default_factory=deque)
    _suspects: deque[Job] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self._jobs) + len(self._suspects)

    def __iter__(self) -> Iterator[Job]:
        yield from [*self._suspects, *self._jobs]

    def add(self, job: Job) -> None:
        """At the end of the queue."""
        self._jobs.append(job)

    def add_again(self, jobs: Iterable[Job]) -> None:
        """Frames of a worker that died, in the order in which it got them: before all others."""
        for job in sorted(jobs, key=lambda one: one.given_at, reverse=True):
            job.suspect = True
            self._suspects.appendleft(job)

    def remove(self, job: Job) -> None:
        """Nobody waits for it any more."""
        queue = self._suspects if job.suspect else self._jobs
        if job in queue:
            queue.remove(job)

    def next(self, places: Sequence[P]) -> tuple[P, Job] | None:
        """The frame whose turn it is, and the least loaded place for it; None: none can go.

        Suspects go one at a time while other frames wait: for the first of them the least loaded
        place is kept free of new frames until it is empty.
        """
        open_ = [one for one in places if not _has_suspect(one)]
        open_.sort(key=lambda one: len(one.jobs))
        if self._suspects and open_:
            if not open_[0].jobs:
                return open_[0], self._suspects.popleft()
            if len(open_) == len(places):
                open_ = open_[1:]
        if self._jobs and open_ and len(open_[0].jobs) < self.capacity:
            return open_[0], self._jobs.popleft()
        return None


def _has_suspect(place: Place) -> bool:
    return any(job.suspect for job in place.jobs.values())
