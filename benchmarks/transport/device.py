"""A device's end of one Connect stream on asyncio, which keeps to the protocol and no more."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from types import TracebackType
from typing import Any

import grpc

from shared.proto.featherwire.v1 import ingest_pb2
from shared.rpc.channel import open_async_channel
from shared.wire.device_protocol import together
from shared.wire.requests import Hello, hello_message
from shared.wire.transport import BATCH_BYTES, BATCH_MESSAGES, CONNECT


class Device:
    """One session: sends frames as credits allow, and counts what comes back.

    ``latencies_s``: from a frame's sending to its result.
    """

    def __init__(self, address: str, session: str, *, device: str = "bench") -> None:
        self.acks: list[int] = []
        self.results: list[int] = []
        self.errors: list[str] = []
        """Reasons of results that are errors."""
        self.latencies_s: list[float] = []
        self.sequence = 0
        self._sent_at: dict[int, float] = {}
        self._unacknowledged: set[int] = set()
        self._hello = Hello(device, session, can_switch_bundle=True, takes_batches=True)
        self._channel = open_async_channel(address)
        self._call: Any = self._channel.stream_stream(
            CONNECT,
            request_serializer=lambda batch: together([one.SerializeToString() for one in batch]),
            response_deserializer=ingest_pb2.ConnectResponse.FromString,
        )()
        self._credits = 0
        self._changed = asyncio.Event()
        self._outbox: deque[ingest_pb2.ConnectRequest] = deque()
        self._filled = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Device:
        """Say Hello, and have Welcome. Raises ConnectionError with the reason of a refusal."""
        await self._call.write([ingest_pb2.ConnectRequest(hello=hello_message(self._hello))])
        first = await self._call.read()
        if not first.HasField("welcome"):
            await self._channel.close()
            raise ConnectionError(first.error.reason)
        self.welcome: ingest_pb2.Welcome = first.welcome
        self.sequence = self.welcome.resume_after_sequence
        self._credits = self.welcome.credits
        self._reader = asyncio.create_task(self._read())
        self._writer = asyncio.create_task(self._write())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call.cancel()
        tasks = [task for task in (self._reader, self._writer) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._channel.close()

    async def send(self, frame: ingest_pb2.Frame) -> int:
        """Send a frame under the next sequence, once there is credit; returns that."""
        while self._credits == 0:
            await self._wait()
        self._credits -= 1
        self.sequence += 1
        frame.sequence = self.sequence
        self._unacknowledged.add(self.sequence)
        self._sent_at[self.sequence] = time.perf_counter()
        self._put(ingest_pb2.ConnectRequest(frame=frame))
        return self.sequence

    async def settled(self) -> None:
        """Wait until every frame has its ack and its result."""
        while self._sent_at or self._unacknowledged:
            await self._wait()

    def beat(self) -> None:
        """Send a heartbeat; its answer is not awaited."""
        self._put(ingest_pb2.ConnectRequest(heartbeat=ingest_pb2.Heartbeat(nonce=1)))

    def _put(self, request: ingest_pb2.ConnectRequest) -> None:
        self._outbox.append(request)
        self._filled.set()

    async def _write(self) -> None:
        """What waits together goes out together, as the edge client does it."""
        while True:
            await self._filled.wait()
            self._filled.clear()
            while self._outbox:
                batch = [self._outbox.popleft()]
                size = batch[0].ByteSize()
                while self._outbox and len(batch) < BATCH_MESSAGES:
                    size += self._outbox[0].ByteSize()
                    if size > BATCH_BYTES:
                        break
                    batch.append(self._outbox.popleft())
                await self._call.write(batch)

    async def _wait(self) -> None:
        assert self._reader is not None
        if self._reader.done():
            self._reader.result()
            raise ConnectionError("the server has ended the stream")
        self._changed.clear()
        await self._changed.wait()

    async def _read(self) -> None:
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                for one in response.batch.responses or (response,):
                    self._take(one)
                self._changed.set()
        finally:
            self._changed.set()

    def _take(self, response: ingest_pb2.ConnectResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "ack":
            self.acks.append(response.ack.sequence)
            self._unacknowledged.discard(response.ack.sequence)
        elif kind == "credit":
            self._credits += response.credit.credits
        elif kind == "result":
            sequence = response.result.sequence
            if sequence not in self._sent_at:
                return  # of a stream before
            if response.result.result_id == 0:  # refused, so there is no ack
                self._unacknowledged.discard(sequence)
            self.results.append(sequence)
            if response.result.outcome.HasField("error"):
                self.errors.append(response.result.outcome.error.reason)
            self.latencies_s.append(time.perf_counter() - self._sent_at.pop(sequence))
        elif kind == "error":
            raise ConnectionError(response.error.reason)
