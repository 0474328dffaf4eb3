"""Frames that come in one message: each is taken for itself, and all are kept together."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sqlalchemy import Connection, text

from cloud_server.consumers import ResultClient
from cloud_server.ingest.flow import StreamLimits
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.requests import Frame, frame_message
from tests.support.memory_server import MemoryServer
from tests.support.raw_client import Client, RawClient
from tests.support.servers import FixedTask, ServerThread

Start = Callable[..., ServerThread]
StartInMemory = Callable[..., MemoryServer]


@pytest.fixture
def bitstream(encoder: EdgeEncoder, image: NDArray[np.uint8]) -> Bitstream:
    return encoder.encode(image)


def frame(sequence: int, bitstream: Bitstream, **fields: Any) -> ingest_pb2.ConnectRequest:
    message = frame_message(Frame(sequence, (bitstream,), **fields))
    return ingest_pb2.ConnectRequest(frame=message)


def send(client: Client, *requests: ingest_pb2.ConnectRequest) -> None:
    client.say(batch=ingest_pb2.RequestBatch(requests=requests))


def kinds(client: Client) -> list[str]:
    """What came, message by message."""
    return [
        one.WhichOneof("message") or ""
        for message in client.received
        for one in message.batch.responses or (message,)
    ]


def test_one_bad_frame_and_one_that_comes_twice_leave_the_others_alone(
    in_memory: MemoryServer, bitstream: Bitstream
) -> None:
    client = in_memory.client()
    client.hello()
    damaged = frame(2, bitstream)
    features = damaged.frame.features[0]
    features.container = features.container[:-1] + bytes([features.container[-1] ^ 1])
    foreign = dataclasses.replace(bitstream, bundle_id=b"elsewher")
    send(
        client,
        frame(1, bitstream),
        damaged,
        frame(3, bitstream),
        frame(1, bitstream),
        frame(4, foreign),
        ingest_pb2.ConnectRequest(heartbeat=ingest_pb2.Heartbeat(nonce=7)),
    )
    client.wait_for("heartbeat")
    results = client.wait_for("result", 5)
    assert [(one.sequence, one.duplicate) for one in client.wait_for("ack", 4)] == [
        (1, False), (3, False), (1, True), (4, False),
    ]  # fmt: skip
    refused, *kept = results
    assert (refused.sequence, refused.result_id) == (2, 0)
    assert refused.outcome.error.reason == "crc_mismatch"
    assert [(one.sequence, one.result_id) for one in kept] == [(1, 1), (3, 2), (1, 1), (4, 3)]
    assert kept[2] == kept[0]
    assert kept[3].outcome.error.reason == "bundle_mismatch"
    # Its sequence is still free.
    client.frame(2, bitstream)
    assert client.wait_for("result", 6)[5].result_id == 4
    client.close()


def test_what_asks_nothing_does_not_wait_for_what_does(
    start_in_memory: StartInMemory, bitstream: Bitstream
) -> None:
    client = start_in_memory({"slow": lambda: FixedTask("slow", 0.5)}).client()
    welcome = client.hello(takes_batches=True)
    send(client, *(frame(n, bitstream, tasks=("slow",) if n == 2 else ()) for n in (1, 2, 3)))
    client.wait_until(lambda: kinds(client).count("result") == 3)
    results = [
        one.result
        for message in client.received
        for one in message.batch.responses or (message,)
        if one.HasField("result")
    ]
    assert [(one.sequence, one.result_id) for one in results] == [(1, 1), (3, 2), (2, 3)]
    assert "slow" in results[2].outcome.analysis.tasks
    # All credits are back: none is lost, and none too many.
    granted = [
        one.credit.credits
        for message in client.received
        for one in message.batch.responses or (message,)
        if one.HasField("credit")
    ]
    client.wait_until(lambda: "credit" in kinds(client)[-1:])
    assert welcome.credits <= welcome.credits - 3 + sum(granted) <= welcome.credits + 3
    client.close()


def test_a_batch_that_cannot_be_kept_is_not_acknowledged_at_all(
    start_server: Start, encoder: EdgeEncoder, bitstream: Bitstream
) -> None:
    noise = np.random.default_rng(1).integers(0, 255, (512, 512, 3)).astype(np.uint8)
    large = encoder.encode(noise)
    server = start_server()
    client = RawClient(server.address)
    client.hello()
    client.frame(1, bitstream)
    client.wait_for("result")

    def limit(pages: int) -> None:
        def change(connection: Connection) -> None:
            now = connection.execute(text("PRAGMA page_count")).scalar_one()
            connection.execute(text(f"PRAGMA max_page_count = {now + pages}")).scalar()

        database = server.server._log.database
        asyncio.run_coroutine_threadsafe(database.write(change), server._loop).result(10)

    limit(1)
    batch = [frame(2, bitstream), *(frame(n, large) for n in range(3, 8)), frame(8, bitstream)]
    send(client, *batch)
    assert client.ended.wait(20)
    assert client.all("error")[0].reason == "log_unavailable"
    assert [one.sequence for one in client.all("ack")] == [1]
    client.close()
    limit(2**20)

    client = RawClient(server.address)
    assert client.hello(last_result_seen=1).resume_after_sequence == 1
    send(client, *batch)
    results = client.wait_for("result", 7)
    assert [(one.sequence, one.result_id) for one in results] == [(n, n) for n in range(2, 9)]
    with ResultClient(server.address) as consumer:
        assert [one.sequence for one in consumer.records()] == list(range(1, 9))
    client.close()


def test_more_frames_than_credits_in_one_batch_end_the_stream_and_keep_what_was_paid_for(
    start_in_memory: StartInMemory, bitstream: Bitstream
) -> None:
    server = start_in_memory(stream_limits=StreamLimits(credits=2))
    client = server.client()
    client.hello()
    send(client, *(frame(n, bitstream) for n in (1, 2, 3)))
    assert client.ended.wait(20)
    assert client.all("error")[0].reason == "credits_exceeded"
    client = server.client()
    assert client.hello().resume_after_sequence == 2
    assert [one.sequence for one in client.wait_for("result", 2)] == [1, 2]


def test_a_drain_in_the_middle_of_a_batch_loses_nothing(
    start_server: Start, bitstream: Bitstream
) -> None:
    one_picture = bitstream.width * bitstream.height
    server = start_server(
        {"slow": lambda: FixedTask("slow", 0.3)}, max_pixels_in_flight=max(2**16, one_picture)
    )
    fits = 1 + max(2**16, one_picture) // one_picture
    client = RawClient(server.address)
    client.hello()
    # The reader waits within the batch, for pixels in flight.
    send(client, *(frame(n, bitstream, tasks=("slow",)) for n in range(1, fits + 3)))
    client.wait_for("ack", fits)
    server.stop()
    client.wait_for("drain")
    assert client.ended.wait(30)
    acks = [one.sequence for one in client.all("ack")]
    assert acks == list(range(1, fits + 1))
    assert sorted(one.sequence for one in client.all("result")) == acks
    assert server.join()
    client.close()
