"""Turns before an engine: nothing that waits is late, whatever the machine does meanwhile."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cloud_server.engine import EngineFrame, EngineOutcome, FairEngine, TaskStatus
from cloud_server.engine.fair import TARGET
from cloud_server.engine.waiting import deadline_exceeded
from shared.bitstream import Bitstream, Layer
from shared.errors import FeatherwireError
from shared.results import AnalysisResult
from tests.support.virtual_time import VirtualLoop, run_virtually

DEADLINE_S = 30.0
FRAME = EngineFrame((Bitstream(b"bundleid", 64, 64, 0, (Layer(0, b"x"),)),), ("looking",))
Speed = Callable[[float], float]


@dataclass
class World:
    """A machine of ``width`` workers; a frame takes ``work_s`` of one whose speed is 1.

    Frames that came in before are done first. ``speed`` may change every ``STEP_S``.
    """

    speed: Speed = lambda now: 1.0
    work_s: Callable[[EngineFrame], float] = lambda frame: 1.0
    width: int = 1
    tasks: dict[str, TaskStatus] = field(default_factory=dict)
    queues: dict[str, int] = field(default_factory=dict)
    alive: bool = True
    inside: int = 0
    most_inside: int = 0
    given: int = 0
    busy_until: float = 0.0
    done: list[tuple[float, str]] = field(default_factory=list)

    STEP_S = 0.05

    def __post_init__(self) -> None:
        self._workers = asyncio.Semaphore(self.width)

    async def submit(self, frame: EngineFrame) -> EngineOutcome:
        loop = asyncio.get_running_loop()
        self.given += 1
        self.inside += 1
        self.most_inside = max(self.most_inside, self.inside)
        try:
            if loop.time() < self.busy_until:
                error = FeatherwireError("busy", "no room")
                return EngineOutcome(error=error)
            async with asyncio.timeout(frame.deadline_s), self._workers:
                left_s = self.work_s(frame)
                while left_s > 0:
                    await asyncio.sleep(self.STEP_S)
                    left_s -= self.STEP_S * self.speed(loop.time())
        except TimeoutError:
            return EngineOutcome(error=deadline_exceeded(frame.deadline_s))
        finally:
            self.inside -= 1
        self.done.append((loop.time(), frame.device))
        analysis = AnalysisResult(
            width=64, height=64, state=0, payload_bytes=1, bits_per_pixel=1.0, tasks={},
            milliseconds={},
        )  # fmt: skip
        return EngineOutcome(analysis=analysis)

    async def close(self) -> bool:
        return True


def frame_of(device: str, **changes: object) -> EngineFrame:
    return replace(FRAME, device=device, deadline_s=DEADLINE_S, **changes)


def fair(world: World) -> FairEngine:
    return FairEngine(world, clock=asyncio.get_running_loop().time)


async def all_of(engine: FairEngine, frames: Sequence[EngineFrame]) -> list[EngineOutcome]:
    return list(await asyncio.gather(*map(engine.submit, frames)))


def test_a_hundred_frames_of_a_second_each_are_not_late() -> None:
    async def run() -> None:
        world = World()
        outcomes = await all_of(fair(world), [frame_of(f"camera-{n % 5}") for n in range(100)])
        assert [outcome.error for outcome in outcomes] == [None] * 100
        assert world.given == 100, "no frame was worked on twice"
        assert world.most_inside * 1.0 < DEADLINE_S / 2

    run_virtually(run())


def test_the_engine_has_as_many_as_it_does_in_the_target_time() -> None:
    async def run() -> None:
        for work_s in (0.05, 0.5, 1.5):
            world = World(work_s=lambda frame, work_s=work_s: work_s)
            engine = fair(world)
            await all_of(engine, [frame_of("camera") for _ in range(400)])
            by_littles_law = TARGET * DEADLINE_S / work_s
            assert 0.5 * by_littles_law <= engine.limit <= 1.5 * by_littles_law + 1

    run_virtually(run())


@settings(max_examples=40, deadline=None)
@given(
    devices=st.integers(1, 12),
    each=st.integers(1, 8),
    work_s=st.floats(0.05, 2.0),
    width=st.integers(1, 4),
    slowings=st.lists(st.tuples(st.floats(0.5, 60), st.floats(0.1, 1.0)), max_size=4),
)
def test_frames_that_could_be_done_are_done_whatever_happens_to_the_machine(
    devices: int, each: int, work_s: float, width: int, slowings: list[tuple[float, float]]
) -> None:
    def speed(now: float) -> float:
        """Alone a frame takes 20 s at the worst: less than its deadline."""
        for until_s, found in slowings:
            if now < until_s:
                return found
            now -= until_s
        return 1.0

    async def run() -> None:
        world = World(speed=speed, work_s=lambda frame: work_s, width=width)
        frames = [frame_of(f"camera-{n % devices}") for n in range(devices * each)]
        outcomes = await all_of(fair(world), frames)
        assert not [outcome.error for outcome in outcomes if outcome.error is not None]
        assert len(world.done) == len(frames)

    run_virtually(run())


def test_devices_take_turns_and_one_with_many_frames_does_not_keep_others_waiting() -> None:
    async def run() -> None:
        world = World()
        engine = fair(world)
        many = asyncio.gather(*(engine.submit(frame_of("greedy")) for _ in range(60)))
        await asyncio.sleep(10)
        before = world.inside
        began = asyncio.get_running_loop().time()
        await engine.submit(frame_of("modest"))
        took_s = asyncio.get_running_loop().time() - began
        assert round(took_s, 6) <= before + 3.0  # the clock is a sum of many small steps
        assert engine.waiting > 30
        await many

    run_virtually(run())


def test_shares_fall_under_load_and_come_back() -> None:
    async def run() -> None:
        engine = fair(World())
        assert engine.share(8) == 8
        frames = [frame_of(f"camera-{n % 20}") for n in range(100)]
        load = asyncio.gather(*map(engine.submit, frames))
        await asyncio.sleep(20)
        assert engine.share(8) == 1
        await load
        assert engine.share(8) == 8

    run_virtually(run())


def test_a_frame_that_takes_too_long_by_itself_is_late_once() -> None:
    async def run() -> None:
        world = World(work_s=lambda frame: 2 * DEADLINE_S)
        outcome = await fair(world).submit(frame_of("camera"))
        assert outcome.error is not None
        assert outcome.error.reason == "deadline_exceeded"
        assert world.given == 1

    run_virtually(run())


def test_a_frame_that_never_ends_does_not_take_others_with_it() -> None:
    async def run() -> None:
        world = World(work_s=lambda frame: 1e6 if frame.device == "endless" else 1.0)
        frames = [frame_of("endless"), *(frame_of(f"camera-{n}") for n in range(40))]
        first, *others = await all_of(fair(world), frames)
        assert first.error is not None
        assert first.error.reason == "deadline_exceeded"
        assert not [outcome.error for outcome in others if outcome.error is not None]

    run_virtually(run())


def test_a_frame_is_given_again_after_the_machine_was_stopped() -> None:
    async def run() -> None:
        world = World(work_s=lambda frame: 2.0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        frame = asyncio.create_task(fair(world).submit(frame_of("camera")))
        await asyncio.sleep(1)
        loop.jump(3600)
        outcome = await frame
        assert outcome.error is None
        assert world.given == 2

    run_virtually(run())


@pytest.mark.parametrize(("deadline_s", "given"), [(30.0, 3), (2.0, 4)])
def test_many_short_stops_are_a_stop(deadline_s: float, given: int) -> None:
    """The process runs 10 ms of every 80, and the frame is the only one."""

    class Fine(World):
        STEP_S = 0.01

    async def run() -> None:
        world = Fine(work_s=lambda frame: deadline_s / 3)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        alone = replace(frame_of("camera"), deadline_s=deadline_s)
        analysed = asyncio.create_task(fair(world).submit(alone))
        while not analysed.done():
            await asyncio.sleep(0.01)
            loop.jump(0.07)
        assert analysed.result().error is None
        assert world.given <= given

    run_virtually(run())


def test_frames_of_a_slow_machine_are_not_all_tried_in_vain_first() -> None:
    async def run() -> None:
        # Half the time the process does not run: a frame takes 40 s, and its deadline is 30.
        world = World(work_s=lambda frame: 20.0)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualLoop)
        frames = [frame_of("camera") for _ in range(20)]
        analysed = asyncio.create_task(all_of(fair(world), frames))
        while not analysed.done():
            await asyncio.sleep(1)
            loop.jump(1)
        assert not [one.error for one in analysed.result() if one.error is not None]
        assert world.given <= 20 + 2 * 8, "the first ones, and after that no more"

    run_virtually(run())


def test_an_engine_without_room_is_asked_again() -> None:
    async def run() -> None:
        world = World(busy_until=100.0)
        outcome = await fair(world).submit(frame_of("camera"))
        assert outcome.error is None

    run_virtually(run())


def test_who_has_no_patience_is_told_that_the_server_is_busy() -> None:
    async def run() -> None:
        world = World()
        engine = fair(world)
        load = [asyncio.create_task(engine.submit(frame_of(f"camera-{n % 20}"))) for n in range(60)]
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        outcome = await engine.submit(frame_of("person", patience_s=5.0))
        assert outcome.error is not None
        assert outcome.error.reason == "busy"
        assert asyncio.get_running_loop().time() - began == pytest.approx(5.0)
        await asyncio.gather(*load)
        assert (await engine.submit(frame_of("person", patience_s=5.0))).error is None

    run_virtually(run())


def test_callers_that_go_leave_their_places_to_others() -> None:
    async def run() -> None:
        world = World()
        engine = fair(world)
        calls = [asyncio.create_task(engine.submit(frame_of("gone"))) for _ in range(30)]
        await asyncio.sleep(2.2)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
        assert engine.waiting == 0
        began = asyncio.get_running_loop().time()
        assert (await engine.submit(frame_of("camera"))).error is None
        assert asyncio.get_running_loop().time() - began < 2.0

    run_virtually(run())


def test_closing_answers_what_waits() -> None:
    async def run() -> None:
        world = World()
        engine = fair(world)
        calls = [asyncio.create_task(engine.submit(frame_of("camera"))) for _ in range(30)]
        await asyncio.sleep(0.5)
        await engine.close()
        outcomes = await asyncio.gather(*calls)
        reasons: dict[str, int] = defaultdict(int)
        for outcome in outcomes:
            reasons["ok" if outcome.error is None else outcome.error.reason] += 1
        assert reasons == {"ok": 8, "engine_closed": 22}

    run_virtually(run())
