"""The log's disk fills up under load: refused with a reason, and nothing acknowledged is lost."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.transport.device import Device
from cloud_server.consumers import ResultClient
from cloud_server.results import log, records
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.requests import Frame, frame_message
from tests.support.full_disk import fill_disk
from tests.support.servers import ServerThread, server_process

Start = Callable[..., ServerThread]
DISK_BYTES = 4 * 2**20


@pytest.fixture
def frame(encoder: EdgeEncoder) -> ingest_pb2.Frame:
    noise = np.random.default_rng(1).integers(0, 255, (512, 512, 3)).astype(np.uint8)
    return frame_message(Frame(1, (encoder.encode(noise),)))


async def until_refused(
    address: str, session: str, frame: ingest_pb2.Frame
) -> tuple[set[int], str]:
    """Send until the server refuses; what it had acknowledged, and why it refused."""
    device = Device(address, session)
    try:
        async with device, asyncio.timeout(60):
            while True:
                await device.send(frame)
    except ConnectionError as refused:
        return set(device.acks), str(refused)


async def send_more(address: str, session: str, frame: ingest_pb2.Frame, count: int) -> int:
    """Go on where the server says; returns up to where it had come before."""
    async with Device(address, session) as device:
        resumed = device.sequence
        for _ in range(count):
            await device.send(frame)
        await device.settled()
        assert not device.errors
        return resumed


def test_a_log_that_may_not_grow_refuses_and_recovers(
    start_server: Start, frame: ingest_pb2.Frame
) -> None:
    """SQLite is told to have no room, for several sessions at once."""
    server = start_server()
    names = [f"s{number}" for number in range(4)]

    async def all_refused() -> list[tuple[set[int], str]]:
        return await asyncio.gather(*(until_refused(server.address, n, frame) for n in names))

    async def all_more() -> list[int]:
        return await asyncio.gather(*(send_more(server.address, n, frame, 5) for n in names))

    fill_disk(server, 200)
    ends = asyncio.run(all_refused())
    assert {reason for _, reason in ends} == {"log_unavailable"}
    fill_disk(server, None)
    resumed = asyncio.run(all_more())
    for (acked, _), up_to in zip(ends, resumed, strict=True):
        assert acked <= set(range(1, up_to + 1))
    assert sum(len(acked) for acked, _ in ends) > 0
    with ResultClient(server.address) as consumer:
        listed = sorted((one.session, one.sequence) for one in consumer.records())
    assert listed == sorted(
        (name, sequence)
        for name, up_to in zip(names, resumed, strict=True)
        for sequence in range(1, up_to + 6)
    )


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB, where this system lets one be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    size = f"size={DISK_BYTES}"
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no file system can be mounted here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=False)


def test_a_disk_that_is_full_refuses_and_recovers(
    disk: Path, tiny_bundle: Bundle, frame: ingest_pb2.Frame
) -> None:
    arguments = ("--bundle", tiny_bundle.origin, "--bundles", "none", "--tasks", "none")
    with server_process(*arguments, "--data", str(disk)) as (process, ready):
        address = ready["listening"]
        acked, reason = asyncio.run(until_refused(address, "s", frame))
        assert reason == "log_unavailable"
        assert len(acked) > 8
        # It goes on saying so, and lives.
        assert asyncio.run(until_refused(address, "other", frame))[1] == "log_unavailable"
        subprocess.run(["mount", "-o", f"remount,size={8 * DISK_BYTES}", str(disk)], check=True)
        resumed = asyncio.run(send_more(address, "s", frame, 5))
        assert acked <= set(range(1, resumed + 1))
        assert process.poll() is None
        with ResultClient(address) as consumer:
            logged = [one.sequence for one in consumer.records() if one.session == "s"]
        # Frames behind those that were refused may have found room: they are known, and counted
        # once, whenever their device comes to them.
        assert len(logged) == len(set(logged))
        assert set(range(1, resumed + 6)) <= set(logged)


def test_a_server_whose_clock_jumps_keeps_order_and_numbers(
    start_server: Start,
    encoder: EdgeEncoder,
    image: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Years forward, then back before the first frame: the log's order is its own."""
    server = start_server()
    small = frame_message(Frame(1, (encoder.encode(image, state=4),)))
    for jump in (timedelta(), timedelta(days=4000), timedelta(days=-4000)):
        now_us = records.to_us(datetime.now(UTC) + jump)
        monkeypatch.setattr(log, "now_us", lambda at=now_us: at)
        asyncio.run(send_more(server.address, "s", small, 5))
    with ResultClient(server.address) as consumer:
        listed = list(consumer.records())
    assert [one.sequence for one in listed] == list(range(1, 16))
    assert [one.result_id for one in listed] == list(range(1, 16))
    times = [one.completed_at.ToMicroseconds() for one in listed]
    assert times[5] > times[0] > times[10]
