"""Many simulated devices at once: they come one after the other, then all send for a while."""

from __future__ import annotations

import asyncio
import secrets
import time
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cloud_server.loadtest.device import OpenChannel, SimulatedDevice
from cloud_server.loadtest.tally import Report, Tally, report
from shared.proto.featherwire.v1 import types_pb2

PROGRESS_EVERY_S = 1.0
LAST_S = 4.0
"""For the results of what was sent, when somebody has had enough."""
LAG_EVERY_S = 0.05


@dataclass(frozen=True, slots=True)
class LoadTest:
    """devices: how many. fps: frames a second of each; 0: as fast as credits come. seconds: of the
    plateau, when all are on. ramp_s: until they are. grace_s: how long a device waits, after the
    last frame, for a word of its server."""

    devices: int
    fps: float = 1.0
    seconds: float = 30.0
    ramp_s: float = 5.0
    grace_s: float = 60.0
    tasks: tuple[str, ...] = ("detection",)


Progress = Callable[[float, Tally], None]


async def run_load_test(
    test: LoadTest,
    callers: Sequence[tuple[str, OpenChannel]],
    streams: Sequence[types_pb2.Features],
    progress: Progress = lambda elapsed_s, tally: None,
    enough: asyncio.Event | None = None,
) -> Report:
    """Run it. callers: name of each device, and how it connects; they are used in turn, so that
    devices beyond their number are further sessions of the same. ``progress`` is called every
    second. ``enough`` ends it early: nothing more is sent, and what is open has a few seconds."""
    tally, stop, run_id = Tally(), asyncio.Event(), secrets.token_hex(4)
    enough = enough or asyncio.Event()
    lags: array[float] = array("d")
    running: list[asyncio.Task[None]] = []
    helpers = [
        asyncio.create_task(_watch(tally, progress)),
        asyncio.create_task(_lag(lags)),
    ]
    try:
        for number in range(test.devices):
            name, open_channel = callers[number % len(callers)]
            device = SimulatedDevice(
                open_channel, streams, tally,
                device=name, session=f"load-{run_id}-{number}", tasks=test.tasks,
                interval_s=1 / test.fps if test.fps else 0.0, offset=number,
            )  # fmt: skip
            running.append(asyncio.create_task(device.run(stop, test.grace_s)))
            if await _within(test.ramp_s / test.devices, enough):
                break
        tally.measuring = True
        began = time.perf_counter()
        await _plateau(running, test.seconds, enough)
        seconds = time.perf_counter() - began
        tally.measuring = False
        stop.set()
        ended = asyncio.gather(*running)
        await _plateau([ended], None, enough)
        await asyncio.wait({ended}, timeout=LAST_S)
        if ended.done():
            ended.result()
    finally:
        for task in (*running, *helpers):
            task.cancel()
        await asyncio.gather(*running, *helpers, return_exceptions=True)
    return report(tally, devices=test.devices, seconds=seconds, lags_s=lags)


async def _within(seconds: float, event: asyncio.Event) -> bool:
    """Whether ``event`` comes in that time."""
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True


async def _plateau(
    running: Sequence[asyncio.Future[Any]], seconds: float | None, enough: asyncio.Event
) -> None:
    """So long, until ``enough``, or until one has ended: of devices a fault of ours."""
    early = asyncio.create_task(enough.wait())
    try:
        await asyncio.wait({early, *running}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        early.cancel()


async def _watch(tally: Tally, progress: Progress) -> None:
    began = time.perf_counter()
    while True:
        await asyncio.sleep(PROGRESS_EVERY_S)
        progress(time.perf_counter() - began, tally)


async def _lag(lags: array[float]) -> None:
    """By how much the test itself is late: then it, and not the server, is what is measured."""
    while True:
        due = time.perf_counter() + LAG_EVERY_S
        await asyncio.sleep(LAG_EVERY_S)
        lags.append(max(0.0, time.perf_counter() - due))
