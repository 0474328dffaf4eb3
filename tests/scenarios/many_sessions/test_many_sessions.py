"""200 idle and 50 busy sessions on one server: its memory is flat, and who is slow is so alone."""

from __future__ import annotations

import asyncio
import itertools
import statistics
from collections.abc import Callable
from contextlib import AsyncExitStack
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.transport.device import Device
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import PictureRequest
from shared.wire.requests import Frame, frame_message
from tests.support.raw_client import RawClient
from tests.support.servers import FixedTask, ServerThread, server_process

IDLE = 200
BUSY = 50
FRAMES = 12
"""Of each busy session, in each of the rounds."""
ROUNDS = 4
MORE_MEMORY = 1.25

_numbers = itertools.count()


@pytest.fixture
def bitstream(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> Bitstream:
    return encoder.encode(image, state=4)


def resident_bytes(pid: int) -> int:
    """What a process holds in memory now."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))


async def opened(stack: AsyncExitStack, address: str, count: int) -> list[Device]:
    devices = [Device(address, f"s{next(_numbers)}") for _ in range(count)]
    return [await stack.enter_async_context(device) for device in devices]


async def busy(devices: list[Device], frame: ingest_pb2.Frame, count: int = FRAMES) -> None:
    """Every device sends so many frames, and has their results; each of them once."""

    async def one(device: Device) -> None:
        first = device.sequence + 1
        for _ in range(count):
            await device.send(frame)
        await device.settled()
        sent = list(range(first, first + count))
        assert sorted(device.results[-count:]) == sent
        assert sorted(device.acks[-count:]) == sent
        assert not device.errors

    await asyncio.gather(*map(one, devices))


def p99_s(devices: list[Device]) -> float:
    """Of the latencies since the last call."""
    latencies = [one for device in devices for one in device.latencies_s]
    for device in devices:
        device.latencies_s.clear()
    return statistics.quantiles(latencies, n=100)[98]


def test_memory_is_flat_under_idle_and_busy_sessions(
    tiny_bundle: Bundle, bitstream: Bitstream
) -> None:
    frame = frame_message(Frame(1, (bitstream,), picture=PictureRequest()))
    arguments = ("--bundle", tiny_bundle.origin, "--bundles", "none", "--tasks", "none")

    async def run(address: str, pid: int) -> None:
        async with AsyncExitStack() as stack:
            idle = await opened(stack, address, IDLE)
            working = await opened(stack, address, BUSY)
            held = []
            for _ in range(ROUNDS):
                for device in idle:
                    device.beat()
                await busy(working, frame, 6)
                held.append(resident_bytes(pid))
            print(f"{[size >> 20 for size in held]} MiB, p99 {p99_s(working) * 1e3:.0f} ms")
            assert held[-1] < MORE_MEMORY * held[0]
            for device in idle:
                await device.send(frame)
            await asyncio.gather(*(device.settled() for device in idle))
            assert all(device.results == [1] for device in idle)

    with server_process(*arguments) as (process, ready):
        asyncio.run(run(ready["listening"], process.pid))


def test_a_slow_task_and_a_slow_client_leave_others_alone(
    start_server: Callable[..., ServerThread], encoder: EdgeEncoder, bitstream: Bitstream
) -> None:
    """p99 of the others beside both, as a ratio to theirs alone in the same run."""
    server = start_server({"slow": lambda: FixedTask("slow", 0.2)}, write_timeout_s=60.0)
    quick = frame_message(Frame(1, (bitstream,)))
    slow = frame_message(Frame(1, (bitstream,), ("slow",)))
    noise = np.random.default_rng(3).integers(0, 255, (512, 512, 3)).astype(np.uint8)
    large = encoder.encode(noise)

    async def run() -> None:
        async with AsyncExitStack() as stack:
            working = await opened(stack, server.address, 20)
            (laggard,) = await opened(stack, server.address, 1)
            await busy(working, quick)
            p99_s(working)
            await busy(working, quick, 2 * FRAMES)
            alone = p99_s(working)
            for _ in range(laggard.welcome.credits):
                await laggard.send(slow)
            deaf = RawClient(server.address, read=False)
            deaf.say(hello=ingest_pb2.Hello(protocol_version=1, device="deaf", session="deaf"))
            for sequence in range(1, 9):
                deaf.frame(sequence, large, picture=PictureRequest())
            await busy(working, quick, 2 * FRAMES)
            beside = p99_s(working)
            unfinished = laggard.welcome.credits - len(laggard.results)
            assert unfinished > 0, "the slow task was done before the others were"
            await laggard.settled()
            deaf.close()
            # Once more alone: a machine that became slower meanwhile is not the slow ones' doing.
            await busy(working, quick, 2 * FRAMES)
            alone = max(alone, p99_s(working))
            print(f"p99 {alone * 1e3:.0f} ms alone, {beside * 1e3:.0f} ms beside the slow ones")
            assert beside < 5 * alone

    asyncio.run(run())
