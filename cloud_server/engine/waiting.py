"""Frames that wait for a worker, who gets which, and what becomes of one whose worker died.

A frame of a worker that died goes to another; its deadline begins anew, and does not run while
there is no worker. One that workers die of while they have no other frame is answered in the end,
with an error. These rules are the same for processes here and for replicas elsewhere.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from cloud_server.engine.api import EngineFrame, EngineOutcome
from shared.errors import FeatherwireError
from shared.words import counted

MAX_CRASHES = 2
"""Workers that may crash on a frame that they have alone; then its answer is an error."""

MAX_KILLS = 5
"""The same for workers that somebody else ended: for want of memory, with a node, or by chance."""


@dataclass(slots=True)
class Deaths:
    """Workers that died while they had this frame alone."""

    crashes: int = 0
    kills: int = 0

    def count(self, *, killed: bool) -> None:
        """Count one more death; ``killed``: the frame may not have been its cause."""
        if killed:
            self.kills += 1
        else:
            self.crashes += 1

    @property
    def enough(self) -> bool:
        """Whether the frame is given up."""
        return self.crashes >= MAX_CRASHES or self.kills >= MAX_KILLS

    def error(self, cause: str) -> FeatherwireError:
        """The answer to a frame that is given up; ``cause``: what the last worker ended with."""
        return FeatherwireError(
            "worker_crashed",
            f"{counted(self.crashes + self.kills, 'worker')} died over this frame alone ({cause})",
            cause=cause,
        )


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
    """A worker, as far as handing out needs it: the frames that it has.

    ``processes`` fills it with workers that have a process, tests with some that have none.
    """

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
        """Put a frame at the end of the queue."""
        self._jobs.append(job)

    def add_again(self, jobs: Iterable[Job]) -> None:
        """Put the frames of a dead worker before all others, in the order in which it got them."""
        for job in sorted(jobs, key=lambda one: one.given_at, reverse=True):
            job.suspect = True
            self._suspects.appendleft(job)

    def remove(self, job: Job) -> None:
        """Take a frame out that nobody waits for any more."""
        queue = self._suspects if job.suspect else self._jobs
        if job in queue:
            queue.remove(job)

    def next(self, places: Sequence[P]) -> tuple[P, Job] | None:
        """The next frame, and the least loaded place for it; None when none can go.

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


def engine_closed() -> FeatherwireError:
    """The answer to frames that an engine has when it is closed."""
    return FeatherwireError("engine_closed", "the server is stopping")


def deadline_exceeded(deadline_s: float) -> FeatherwireError:
    """The answer to a frame that is not done in time."""
    return FeatherwireError(
        "deadline_exceeded", f"not done within {deadline_s:g} s", deadline_s=deadline_s
    )
