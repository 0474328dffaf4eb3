"""10,000 damaged stream messages at a live server: typed refusals, and others are served on."""

from __future__ import annotations

import asyncio
import collections
import random
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from benchmarks.transport.device import Device
from edge_client.encoder import EdgeEncoder
from shared.bitstream import FORMAT_VERSIONS, Bitstream
from shared.bundle import Bundle
from shared.proto.featherwire.v1 import ingest_pb2, types_pb2
from shared.rpc.channel import client_options, open_async_channel
from shared.wire import PictureRequest
from shared.wire.requests import Frame, Refine, frame_message, refine_message
from shared.wire.transport import ERROR_METADATA_KEY
from tests.support.mutations import mutate
from tests.support.servers import server_process

STREAMS = 500
MESSAGES = 20
"""Of one stream, its Hello beside them; the last one may be such as ends it."""

BEAT = ingest_pb2.ConnectRequest(heartbeat=ingest_pb2.Heartbeat(nonce=2**60))
BOMBS = 8
BOMB_BYTES = 192 * 2**20
METHOD = "/featherwire.v1.IngestService/Connect"
LOCAL = "StatusCode.INTERNAL Internal error from Core"
LOCAL_TRIES = 10


@pytest.fixture
def bitstream(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> Bitstream:
    return encoder.encode(image)


def hello(session: str) -> ingest_pb2.ConnectRequest:
    said = ingest_pb2.Hello(
        protocol_version=1, device="fuzz", session=session, can_switch_bundle=True
    )
    return ingest_pb2.ConnectRequest(hello=said)


def seeds(bitstream: Bitstream) -> list[ingest_pb2.ConnectRequest]:
    """A message of every kind, as a client would say it."""
    request = ingest_pb2.ConnectRequest
    frame = frame_message(Frame(1, (bitstream.truncate(3),), picture=PictureRequest()))
    kept = frame_message(Frame(2, (bitstream,), ("nothing",)))
    refine = refine_message(Refine(1, bitstream.layers[2:], version=bitstream.version))
    beat = request(heartbeat=ingest_pb2.Heartbeat(nonce=7))
    both = ingest_pb2.RequestBatch(requests=[request(frame=frame), beat, request(frame=kept)])
    nested = ingest_pb2.RequestBatch(requests=[request(batch=both)])
    return [
        hello("again"),
        request(frame=frame),
        request(frame=kept),
        request(refine=refine),
        request(result_credit=ingest_pb2.ResultCredit(credits=3)),
        beat,
        request(batch=both),
        request(batch=nested),
        request(bye=ingest_pb2.Bye()),
    ]


def forged(message: ingest_pb2.ConnectRequest, rng: random.Random) -> ingest_pb2.ConnectRequest:
    """The same message with a sequence that is none, or one that skips, or repeats."""
    copy = ingest_pb2.ConnectRequest()
    copy.CopyFrom(message)
    sequence = rng.choice((0, 1, 2, 3, 2**31, 2**63 - 1, 2**63, 2**64 - 1))
    if copy.HasField("frame"):
        copy.frame.sequence = sequence
    elif copy.HasField("refine"):
        copy.refine.sequence = sequence
    return copy


def damaged(messages: list[ingest_pb2.ConnectRequest], rng: random.Random) -> bytes:
    message = rng.choice(messages)
    match rng.randrange(4):
        case 0:
            return forged(message, rng).SerializeToString()
        case 1:  # in the wrong order
            return message.SerializeToString()
        case 2:
            return mutate(forged(message, rng).SerializeToString(), rng)
        case _:
            return mutate(message.SerializeToString(), rng)


def lasting(messages: list[ingest_pb2.ConnectRequest], rng: random.Random) -> bytes:
    """A damaged message that a stream outlives: what is wrong with it is said of it alone."""
    while True:
        data = damaged(messages, rng)
        try:
            message = ingest_pb2.ConnectRequest.FromString(data)
        except DecodeError:
            continue
        kind = message.WhichOneof("message")
        if kind in {"refine", "heartbeat", "result_credit"}:
            return data
        if kind == "frame" and 1 <= message.frame.sequence < 2**63:
            return data


async def attack(
    channel: grpc.aio.Channel, messages: list[bytes], ends: collections.Counter[Any]
) -> bool:
    """One stream that says all of ``messages``; how it ended goes to ``ends``.

    Before the last one it asks for a heartbeat: returns whether the server had come as far. Now
    and then a write of the client's own gRPC meets the end of its stream, and what the server said
    is lost here: the same is said again then.
    """
    for _ in range(LOCAL_TRIES):
        ended, outlived = await attempt(channel, messages)
        if ended != LOCAL:
            break
    ends[ended] += 1
    return outlived


async def attempt(channel: grpc.aio.Channel, messages: list[bytes]) -> tuple[str, bool]:
    """How the stream ended, and whether it came to its last message."""
    call: Any = channel.stream_stream(METHOD)()
    outlived = asyncio.Event()

    async def say() -> None:
        try:
            for message in messages[:-1]:
                await call.write(message)
            await call.write(BEAT.SerializeToString())
            await outlived.wait()
            await call.write(messages[-1])
            await call.done_writing()
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # the server had enough of it

    saying = asyncio.create_task(say())
    try:
        async with asyncio.timeout(60):
            async for answer in call:
                said = ingest_pb2.ConnectResponse.FromString(answer)
                if said.heartbeat.nonce == BEAT.heartbeat.nonce:
                    outlived.set()
        ended = "ok"
    except grpc.RpcError as error:
        ended = reason_of(error)
    finally:
        saying.cancel()
    return ended, outlived.is_set()


def reason_of(error: grpc.RpcError) -> str:
    """The typed error's reason, else gRPC's own code."""
    for key, value in error.trailing_metadata() or ():
        if key == ERROR_METADATA_KEY:
            return types_pb2.Error.FromString(value).reason
    return f"{error.code()} {error.details()}"


def test_damaged_streams_are_refused_by_type_and_others_served_on(
    tiny_bundle: Bundle, encoder: EdgeEncoder, image: NDArray[np.uint8], bitstream: Bitstream
) -> None:
    rng = random.Random("featherwire-streams")
    known = [
        message
        for version in FORMAT_VERSIONS
        for message in seeds(encoder.encode(image, version=version))
    ]
    ends: collections.Counter[Any] = collections.Counter()

    async def run(address: str) -> int:
        frame = frame_message(Frame(1, (bitstream,), picture=PictureRequest()))
        async with (
            open_async_channel(address) as channel,
            Device(address, "good") as good,
        ):
            outlived = 0
            for first in range(0, STREAMS, 10):
                streams = [
                    [
                        # One stream in eight does not even open as it should.
                        damaged(known, rng)
                        if number % 8 == 0
                        else hello(f"f{number}").SerializeToString(),
                        *(lasting(known, rng) for _ in range(MESSAGES - 1)),
                        damaged(known, rng),
                    ]
                    for number in range(first, first + 10)
                ]
                outlived += sum(
                    await asyncio.gather(*(attack(channel, one, ends) for one in streams))
                )
                await good.send(frame)
                await good.settled()
            assert good.results == list(range(1, STREAMS // 10 + 1))
            assert not good.errors
            return outlived

    tasks_off = ("--bundle", tiny_bundle.origin, "--bundles", "none", "--tasks", "none")
    with server_process(*tasks_off, "--credits", "64") as (process, ready):
        outlived = asyncio.run(run(ready["listening"]))
        assert process.poll() is None
    print(dict(ends), f"{outlived} streams came to their last message")
    assert sum(ends.values()) == STREAMS
    assert {"invalid_message", "no_hello"} <= set(ends)
    assert outlived > STREAMS * 3 // 4  # they were read, not only sent
    assert not [reason for reason in ends if reason.startswith("StatusCode.")], "not typed"
    assert "internal_error" not in ends


@pytest.mark.parametrize(
    ("compression", "message_bytes", "refusal"),
    [
        (
            grpc.Compression.NoCompression,
            40 * 2**20,
            "StatusCode.RESOURCE_EXHAUSTED SERVER: Received message larger",
        ),
        (grpc.Compression.Gzip, BOMB_BYTES, "StatusCode.UNIMPLEMENTED Compression algorithm"),
    ],
)
def test_what_is_too_large_is_refused_also_when_it_is_small_compressed(
    tiny_bundle: Bundle,
    bitstream: Bitstream,
    compression: grpc.Compression,
    message_bytes: int,
    refusal: str,
) -> None:
    """Nothing is unpacked: gRPC would do so before it looks at the size."""
    ends: collections.Counter[Any] = collections.Counter()
    options = client_options(max_message_bytes=2 * BOMB_BYTES)

    async def run(address: str, pid: int) -> int:
        frame = frame_message(Frame(1, (bitstream,)))
        async with (
            grpc.aio.insecure_channel(address, options=options, compression=compression) as channel,
            Device(address, "good") as good,
        ):
            await good.send(frame)
            await good.settled()
            before = peak_bytes(pid)
            opening = hello("bomb").SerializeToString()
            for _ in range(BOMBS):
                await attack(channel, [opening, bytes(message_bytes)], ends)
                await good.send(frame)
                await good.settled()
            assert len(good.results) == BOMBS + 1
            return peak_bytes(pid) - before

    arguments = ("--bundle", tiny_bundle.origin, "--bundles", "none", "--tasks", "none")
    with server_process(*arguments) as (process, ready):
        grown = asyncio.run(run(ready["listening"], process.pid))
        assert process.poll() is None
    print(dict(ends), f"the server grew by {grown >> 20} MiB at most")
    assert sum(ends.values()) == BOMBS
    assert all(reason.startswith(refusal) or reason == LOCAL for reason in ends)
    assert set(ends) != {LOCAL}
    assert grown < (4 * message_bytes if compression == 0 else BOMB_BYTES // 4)


def peak_bytes(pid: int) -> int:
    """The most that a process has held in memory."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))
