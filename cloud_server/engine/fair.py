"""Turns before an engine: as many frames inside as it can do in good time, device by device.

An engine that is given more than it can do answers none of it sooner. So frames wait here, without
a bound on their time, and the engine's deadline begins when a frame is given to it. How many are
inside follows what the engine gets done: by Little's law (Operations Research 9 (3), 1961) the
frames inside are its rate times how long each is there, so the limit under which they are there for
the target is that rate times the target. It is searched as congestion windows are (Jacobson,
SIGCOMM 1988): up while frames come back sooner, down while they come back later, to the least after
one that came too late.

    submit ── a queue for each device ── a turn ── engine ── outcome
                       ^                              │
                       └───────── late: again ────────┘
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import structlog

from cloud_server.engine.api import Engine, EngineAround, EngineFrame, EngineOutcome
from cloud_server.engine.waiting import engine_closed
from shared.errors import FeatherwireError, SessionError

TARGET = 0.1
"""Of its deadline a frame should be in the engine, so that a machine that suddenly has a tenth of
the time still finishes what is inside."""

FIRST_LIMIT = 8
"""Frames inside, or four for each that is worked on at a time, before anything is known."""

MOST_LIMIT = 4096
ATTEMPTS = 4
"""Times at most that a frame is given to the engine, each with twice the deadline of the one
before."""

LOOK_S = 0.1
SLICE_S = 0.02
"""Timers that are no later than this say nothing: other threads of the process have had turns."""

PAUSED = 0.1
"""Of its deadline: a frame is given again when the process stood still for so much of it."""

BUSY_S = 0.5
"""Before the engine is offered a frame again for which it had no room."""

LATE = frozenset({"deadline_exceeded", "busy"})
Clock = Callable[[], float]


class ConcurrencyLimit:
    """How many frames an engine is given at a time."""

    def __init__(self, least: int = 1) -> None:
        """least: frames that it works on at a time; with fewer some of it would idle."""
        self._value = float(max(FIRST_LIMIT, 4 * least))

    @property
    def value(self) -> int:
        """Frames that may be inside."""
        return int(self._value)

    def finished(self, inside_s: float, target_s: float, *, least: int, limiting: bool) -> None:
        """A frame came back after ``inside_s``.

        limiting: others waited because of the limit; where none does, a larger one would show
        nothing, and it is not raised.
        """
        step = min(1.0, max(-0.5, target_s / max(inside_s, 1e-9) - 1.0))
        if step < 0 or limiting:
            self._value = min(float(MOST_LIMIT), max(float(least), self._value + step))

    def late(self, least: int) -> None:
        """A frame did not come back in time: begin again with the least."""
        self._value = float(least)


@dataclass(slots=True, eq=False)
class _Waiting:
    """A frame before its turn; times are the clock's."""

    frame: EngineFrame
    since: float
    turn: asyncio.Future[None] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class FairQueue:
    """Frames that wait for their turn, taken from one device after the other."""

    def __init__(self) -> None:
        self._devices: OrderedDict[str, deque[_Waiting]] = OrderedDict()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    @property
    def devices(self) -> frozenset[str]:
        """Those with a frame here."""
        return frozenset(self._devices)

    def put(self, one: _Waiting, *, first: bool = False) -> None:
        """Add a frame; ``first``: before the others of its device."""
        queue = self._devices.setdefault(one.frame.device, deque())
        (queue.appendleft if first else queue.append)(one)
        self._waiting += 1

    def take(self) -> _Waiting:
        """The next frame; its device is the last then."""
        device, queue = next(iter(self._devices.items()))
        one = queue.popleft()
        self._waiting -= 1
        self._devices.move_to_end(device)
        if not queue:
            del self._devices[device]
        return one

    def remove(self, one: _Waiting) -> None:
        """Take out a frame that nobody waits for any more, if it is here."""
        queue = self._devices.get(one.frame.device)
        if queue is None or one not in queue:
            return
        queue.remove(one)
        self._waiting -= 1
        if not queue:
            del self._devices[one.frame.device]

    def clear(self) -> list[_Waiting]:
        """Take out all."""
        found = [one for queue in self._devices.values() for one in queue]
        self._devices.clear()
        self._waiting = 0
        return found


class StoodStill:
    """How long this process did not run: it, or its machine, was stopped, or had no processor.

    It is how late timers are that are due every ``LOOK_S``, so many short stops count as one long
    one does: about a quarter of the time for a process that runs 10 ms of every 80.
    """

    def __init__(self, clock: Clock) -> None:
        self.seconds = 0.0
        """All of it so far."""
        self._clock = clock
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Begin to measure, until ``rest``."""
        if self._timer is None:
            self._due = self._clock() + LOOK_S
            self._timer = asyncio.get_running_loop().call_later(LOOK_S, self._tick)

    def rest(self) -> None:
        """Measure nothing for now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self) -> float:
        """``seconds`` up to this moment: timers of this loop may run in any order after a pause."""
        now = self._clock()
        late_s = now - self._due
        if late_s > SLICE_S:
            self.seconds += late_s
        self._due = max(self._due, now)
        return self.seconds

    def _tick(self) -> None:
        self.look()
        self._timer = None
        self.watch()


class FairEngine(EngineAround):
    """``engine`` behind turns; an Engine itself.

    A frame's deadline begins with its turn. One that is late among more frames than the engine
    works on at a time, or while the machine stood still, was late for their sake: it is given
    again, with twice the time, while fewer are inside. Only one that takes too long by itself has
    that for its outcome. A frame with a ``patience_s`` has the outcome ``busy`` when it gets no
    turn in that time, is not given again, and its deadline begins with ``submit``.
    """

    def __init__(self, engine: Engine, *, clock: Clock = time.monotonic) -> None:
        super().__init__(engine)
        self._clock = clock
        self._limit = ConcurrencyLimit(engine.width)
        self._queue = FairQueue()
        self._inside: dict[str, int] = {}
        self._count = 0
        self._lowered_at = self._crowded_at = float("-inf")
        self._stood_still = StoodStill(clock)
        # While the machine is slow, frames are not tried with a time that others found too short.
        self._times = 1
        self._closing = False

    # -- the contract ----------------------------------------------------------------------------

    @property
    def queues(self) -> dict[str, int]:
        """Items inside every stage or waiting for it; ``turn``: frames that wait here."""
        return {"turn": self.waiting, **self._engine.queues}

    async def submit(self, frame: EngineFrame) -> EngineOutcome:
        """Analyse a frame when its turn has come."""
        if frame.asks_nothing:
            return await self._engine.submit(frame)
        began, late = self._clock(), 0
        while True:
            outcome, excused = await self._turn(frame, late)
            if not _late(outcome) or frame.patience_s is not None or self._closing:
                return outcome
            if outcome.error is not None and outcome.error.reason == "busy":
                await asyncio.sleep(BUSY_S)  # the engine had no room, and has tried nothing
                continue
            late += 1
            if late >= ATTEMPTS or not excused:
                return outcome
            structlog.get_logger().warning(
                "frame_late",
                device=frame.device,
                deadline_s=frame.deadline_s,
                late=late,
                since_s=round(self._clock() - began, 1),
                limit=self.limit,
            )
            self._times = max(self._times, 2**late)

    async def close(self) -> bool:
        """Answer what waits with engine_closed, and close the engine."""
        self._closing = True
        for one in self._queue.clear():
            if not one.turn.done():
                one.turn.set_exception(engine_closed())
        return await self._engine.close()

    # -- for the credits of streams ---------------------------------------------------------------

    @property
    def limit(self) -> int:
        """Frames that the engine is given at a time."""
        return max(self._limit.value, self._engine.width)

    @property
    def waiting(self) -> int:
        """Frames before their turn."""
        return len(self._queue)

    def share(self, credits: int) -> int:
        """How many frames one device may have in flight, of the ``credits`` that it could have.

        All of them, until as many frames wait as are inside, which is enough to keep the engine at
        work; then an equal share, and one at least.
        """
        most = 2 * self.limit
        if self._count + self.waiting < most:
            return credits
        devices = len(self._queue.devices | self._inside.keys())
        return max(1, min(credits, most // max(1, devices)))

    # -- parts -----------------------------------------------------------------------------------

    async def _turn(self, frame: EngineFrame, late: int) -> tuple[EngineOutcome, bool]:
        """Wait for a turn, and give the frame, which was late so often, to the engine.

        The outcome, and whether the frame is not to blame for the time that it took.
        """
        if self._closing:
            return EngineOutcome(error=engine_closed()), False
        one = _Waiting(frame, self._clock())
        self._queue.put(one, first=late > 0)
        self._let_in()
        try:
            async with asyncio.timeout(frame.patience_s):
                await one.turn
        except TimeoutError:
            if not one.turn.done() or one.turn.cancelled():
                self._queue.remove(one)
                return EngineOutcome(error=_no_turn(frame.patience_s or 0.0)), False
        except FeatherwireError as error:
            return EngineOutcome(error=error), False
        except asyncio.CancelledError:
            self._queue.remove(one)
            if one.turn.done() and not one.turn.cancelled() and one.turn.exception() is None:
                self._leave(frame.device)
            raise
        entered = self._clock()
        deadline_s = frame.deadline_s
        if frame.patience_s is None:
            deadline_s *= max(2**late, self._times)
        else:  # somebody waits for a reply, and not for a turn alone
            deadline_s = max(deadline_s / 10, deadline_s - (entered - one.since))
        stood_still_s = self._stood_still.seconds
        try:
            outcome = await self._engine.submit(replace(frame, deadline_s=deadline_s))
            self._learn(frame, entered, outcome)
            lost_s = self._stood_still.look() - stood_still_s
            crowded = self._count > self._engine.width or self._crowded_at >= entered
        finally:
            self._leave(frame.device)
        waited_ms = (entered - one.since) * 1e3
        return _waited(outcome, waited_ms), crowded or lost_s > PAUSED * deadline_s

    def _learn(self, frame: EngineFrame, entered: float, outcome: EngineOutcome) -> None:
        now, least = self._clock(), self._engine.width
        if _late(outcome):
            # Those that came in before the limit was lowered say nothing of the lower one.
            if entered >= self._lowered_at:
                self._limit.late(least)
                self._lowered_at = now
            return
        if outcome.error is None:  # what cannot be decoded comes back at once
            if now - entered < frame.deadline_s / 2:
                self._times = max(1, self._times // 2)
            self._limit.finished(
                now - entered,
                TARGET * frame.deadline_s,
                least=least,
                limiting=bool(self._queue),
            )

    def _let_in(self) -> None:
        while self._queue and self._count < self.limit:
            one = self._queue.take()
            if one.turn.done():
                continue  # its caller has gone
            device = one.frame.device
            self._inside[device] = self._inside.get(device, 0) + 1
            self._count += 1
            self._stood_still.watch()
            one.turn.set_result(None)

    def _leave(self, device: str) -> None:
        if self._count > self._engine.width:
            self._crowded_at = self._clock()
        self._count -= 1
        if not self._count:
            self._stood_still.rest()
        left = self._inside[device] - 1
        if left:
            self._inside[device] = left
        else:
            del self._inside[device]
        self._let_in()


def _late(outcome: EngineOutcome) -> bool:
    """Whether the engine had too little time for the frame, or for a part of it."""
    errors = (outcome.error, outcome.picture_error, *outcome.task_errors.values())
    return any(error is not None and error.reason in LATE for error in errors)


def _waited(outcome: EngineOutcome, waited_ms: float) -> EngineOutcome:
    """``outcome`` with the time before the turn in its times."""
    if outcome.analysis is not None and outcome.analysis.milliseconds:
        times = outcome.analysis.milliseconds
        for name in ("queue", "total"):
            times[name] = times.get(name, 0.0) + waited_ms
    return outcome


def _no_turn(patience_s: float) -> FeatherwireError:
    return SessionError(
        "busy", f"the server has more to do than it can: no turn within {patience_s:g} s; try again"
    )
