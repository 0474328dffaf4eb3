"""A server with more to do than it can: devices are slowed down, and told; no frame is late."""

from __future__ import annotations

import asyncio
import statistics
import time
from pathlib import Path

import pytest

from cloud_server.engine import EngineFrame
from cloud_server.ingest.flow import StreamLimits
from shared.bitstream import Bitstream, Layer
from shared.bundle import Bundle
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.device_events import Answered, Backlogged
from shared.wire.features import features_message
from shared.wire.requests import Hello
from tests.support.memory_server import TASK, MemoryDevice, ScriptedEngine, memory_server


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load("picture")


def frame(bundle: Bundle) -> ingest_pb2.Frame:
    state = bundle.manifest.coarsest_state
    bitstream = Bitstream(bundle.short_id, 64, 64, state, (Layer(state, b"bytes"),))
    return ingest_pb2.Frame(features=[features_message(bitstream)], tasks=[TASK])


class Greedy:
    """A device that sends whenever it may."""

    def __init__(self, device: MemoryDevice, bundle: Bundle) -> None:
        self.device = device
        self.sent = 0
        self.most_in_flight = 0
        self._bundle = bundle

    @property
    def in_flight(self) -> int:
        return self.sent - len(self.device.found(Answered))

    async def send(self, frames: int) -> None:
        until = self.sent + frames
        while self.sent < until:
            await self.device.until(lambda: self.device.protocol.can_send)
            self.device.protocol.send_frame(frame(self._bundle), None, time.monotonic())
            self.sent += 1
            self.device.wake()
            await asyncio.sleep(0)
        await self.device.until(lambda: not self.in_flight, 30.0)


async def test_devices_have_less_in_flight_while_the_engine_is_busy_and_more_again_afterwards(
    tmp_path: Path, bundle: Bundle
) -> None:
    worker, pause_s = asyncio.Lock(), 0.01

    async def work(_frame: EngineFrame) -> None:
        async with worker:
            await asyncio.sleep(pause_s)

    # A target of 0.06 s is six frames at a time.
    limits = StreamLimits(frame_deadline_s=0.6)
    engine = ScriptedEngine(work)
    async with memory_server(tmp_path, bundle, engine=engine, stream_limits=limits) as ingest:
        devices = [
            Greedy(MemoryDevice(ingest, Hello(f"camera-{number}", "one")), bundle)
            for number in range(8)
        ]
        streams = [asyncio.create_task(one.device.connect()) for one in devices]
        await asyncio.gather(*(one.send(12) for one in devices))
        for one in devices:
            answers = one.device.found(Answered)
            assert len(answers) == 12
            assert not any(answer.result.outcome.HasField("error") for answer in answers)
        assert len(engine.seen) == 8 * 12, "no frame was worked on twice"
        # With all of them at work they have far less in flight than their credits would allow.
        load = [asyncio.create_task(one.send(40)) for one in devices]
        seen = []
        while len(seen) < 21 and not any(one.done() for one in load):
            await asyncio.sleep(0.05)
            seen.append(sum(one.in_flight for one in devices))
        assert statistics.median(seen) <= 8 * limits.credits / 2, seen
        await asyncio.gather(*load)
        # One alone has all that a device may have.
        pause_s = 0.0
        await devices[0].send(40)
        # The last of them come after the result, in a message of their own.
        protocol = devices[0].device.protocol
        await devices[0].device.until(lambda: protocol.credits == limits.credits)
        for stream in streams:
            stream.cancel()
        await asyncio.gather(*streams, return_exceptions=True)


async def test_a_device_hears_that_its_frames_are_still_with_the_server(
    tmp_path: Path, bundle: Bundle
) -> None:
    release = asyncio.Event()

    async def wait(_frame: EngineFrame) -> None:
        await release.wait()

    limits = StreamLimits(frame_deadline_s=0.2)
    engine = ScriptedEngine(wait)
    async with memory_server(tmp_path, bundle, engine=engine, stream_limits=limits) as ingest:
        device = MemoryDevice(ingest, Hello("camera", "one"))
        stream = asyncio.create_task(device.connect())
        await device.until(lambda: device.protocol.can_send)
        device.protocol.send_frame(frame(bundle), None, time.monotonic())
        device.wake()
        await device.until(lambda: len(device.found(Backlogged)) >= 2)
        assert device.found(Backlogged)[0].frames == 1
        release.set()
        await device.until(lambda: bool(device.found(Answered)))
        told = len(device.found(Backlogged))
        await asyncio.sleep(0.2)
        assert len(device.found(Backlogged)) == told, "nothing is with the server any more"
        device.protocol.bye()
        device.wake()
        await asyncio.wait_for(stream, 10)
