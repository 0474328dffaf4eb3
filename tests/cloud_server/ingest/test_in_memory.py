"""Streams in memory: what the ingest does with messages, without a socket, in milliseconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path

import pytest

from cloud_server.engine import EngineFrame
from cloud_server.ingest.flow import StreamLimits
from shared.bitstream import Bitstream, Layer
from shared.bundle import Bundle
from shared.errors import SessionError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.device_events import Acknowledged, Answered, Welcomed
from shared.wire.features import features_message
from shared.wire.requests import Hello, hello_message
from tests.support.memory_server import TASK, MemoryDevice, ScriptedEngine, memory_server

HELLO = Hello("camera", "one")


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load("picture")


def frame(bundle: Bundle, sequence: int, *tasks: str) -> ingest_pb2.Frame:
    state = bundle.manifest.coarsest_state
    bitstream = Bitstream(bundle.short_id, 64, 64, state, (Layer(state, b"bytes"),))
    return ingest_pb2.Frame(
        sequence=sequence, features=[features_message(bitstream)], tasks=list(tasks)
    )


def send(device: MemoryDevice, message: ingest_pb2.Frame) -> None:
    device.protocol.send_frame(message, None, time.monotonic())
    device.wake()


async def test_frames_are_acknowledged_and_answered_once_and_in_order(
    tmp_path: Path, bundle: Bundle
) -> None:
    async with memory_server(tmp_path, bundle) as ingest:
        device = MemoryDevice(ingest, HELLO)
        stream = asyncio.create_task(device.connect())
        await device.until(lambda: device.protocol.can_send)
        for sequence in (1, 2, 3):
            send(device, frame(bundle, sequence, *([TASK] if sequence == 2 else [])))
        await device.until(lambda: len(device.found(Answered)) == 3)
        device.protocol.bye()
        device.wake()
        await asyncio.wait_for(stream, 10)
    assert [event.key[0] for event in device.found(Acknowledged)] == [1, 2, 3]
    assert sorted(event.key[0] for event in device.found(Answered)) == [1, 2, 3]
    assert {event.result.result_id for event in device.found(Answered)} == {1, 2, 3}


async def test_a_frame_of_a_lost_stream_is_processed_once_and_answered_on_the_next(
    tmp_path: Path, bundle: Bundle
) -> None:
    release = asyncio.Event()

    async def wait(_frame: EngineFrame) -> None:
        await release.wait()

    engine = ScriptedEngine(wait)
    async with memory_server(tmp_path, bundle, engine=engine) as ingest:
        device = MemoryDevice(ingest, HELLO, remembers=True)
        stream = asyncio.create_task(device.connect())
        await device.until(lambda: device.protocol.can_send)
        send(device, frame(bundle, 1, TASK))
        await device.until(lambda: bool(device.found(Acknowledged)))
        stream.cancel()
        with suppress(asyncio.CancelledError):
            await stream
        again = asyncio.create_task(device.connect())
        await device.until(lambda: len(device.found(Welcomed)) == 2)
        assert device.found(Welcomed)[1].welcome.resume_after_sequence == 1
        release.set()
        await device.until(lambda: bool(device.found(Answered)))
        device.protocol.bye()
        device.wake()
        await asyncio.wait_for(again, 10)
    assert len(engine.seen) == 1
    assert len(device.found(Answered)) == 1


async def test_a_second_hello_takes_the_session_over(tmp_path: Path, bundle: Bundle) -> None:
    async with memory_server(tmp_path, bundle) as ingest:
        first, second = MemoryDevice(ingest, HELLO), MemoryDevice(ingest, HELLO)
        before = asyncio.create_task(first.connect())
        await first.until(lambda: first.protocol.can_send)
        after = asyncio.create_task(second.connect())
        with pytest.raises(SessionError) as raised:
            await asyncio.wait_for(before, 10)
        assert raised.value.reason == "superseded"
        await second.until(lambda: second.protocol.can_send)
        second.protocol.bye()
        second.wake()
        await asyncio.wait_for(after, 10)


async def test_a_client_that_sends_more_than_its_credits_is_ended(
    tmp_path: Path, bundle: Bundle
) -> None:
    async with memory_server(
        tmp_path, bundle, stream_limits=StreamLimits(credits=2, kept_credits=2)
    ) as ingest:

        async def requests() -> AsyncIterator[ingest_pb2.ConnectRequest]:
            yield ingest_pb2.ConnectRequest(hello=hello_message(HELLO))
            batch = ingest_pb2.RequestBatch(
                requests=[
                    ingest_pb2.ConnectRequest(frame=frame(bundle, number)) for number in (1, 2, 3)
                ]
            )
            yield ingest_pb2.ConnectRequest(batch=batch)
            await asyncio.Event().wait()

        responses: list[ingest_pb2.ConnectResponse] = []

        async def read() -> None:
            async for response in ingest.exchange(requests()):
                responses.append(response)

        with pytest.raises(SessionError) as raised:
            await read()
        assert raised.value.reason == "credits_exceeded"
        assert responses[-1].error.reason == "credits_exceeded"


async def test_a_client_that_reads_nothing_loses_its_stream(tmp_path: Path, bundle: Bundle) -> None:
    async with memory_server(
        tmp_path, bundle, stream_limits=StreamLimits(write_timeout_s=0.2)
    ) as ingest:

        async def requests() -> AsyncIterator[ingest_pb2.ConnectRequest]:
            yield ingest_pb2.ConnectRequest(hello=hello_message(HELLO))
            for nonce in range(4):
                beat = ingest_pb2.Heartbeat(nonce=nonce)
                yield ingest_pb2.ConnectRequest(heartbeat=beat)
            await asyncio.Event().wait()

        exchange = ingest.exchange(requests())
        welcome = await anext(exchange)
        assert welcome.HasField("welcome")
        async with asyncio.timeout(10):
            while ingest.open_streams:
                await asyncio.sleep(0.01)
        with pytest.raises(SessionError) as raised:
            async for _ in exchange:
                pass
        assert raised.value.reason == "slow_consumer"


async def test_a_server_that_drains_refuses_streams_and_ends_those_it_has(
    tmp_path: Path, bundle: Bundle
) -> None:
    async with memory_server(tmp_path, bundle) as ingest:
        device = MemoryDevice(ingest, HELLO)
        stream = asyncio.create_task(device.connect())
        await device.until(lambda: device.protocol.can_send)
        ingest.drain(5.0)
        await asyncio.wait_for(stream, 10)
        with pytest.raises(SessionError) as raised:
            await MemoryDevice(ingest, HELLO).connect()
        assert raised.value.reason == "draining"


async def test_the_first_message_must_be_hello(tmp_path: Path, bundle: Bundle) -> None:
    async with memory_server(tmp_path, bundle) as ingest:

        async def requests() -> AsyncIterator[ingest_pb2.ConnectRequest]:
            yield ingest_pb2.ConnectRequest(bye=ingest_pb2.Bye())

        with pytest.raises(SessionError) as raised:
            async for _ in ingest.exchange(requests()):
                pass
        assert raised.value.reason == "no_hello"
