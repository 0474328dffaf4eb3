"""A device's end of one Connect stream on asyncio, which keeps to the protocol and no more."""

from __future__ import annotations

import asyncio
import time
from types import TracebackType
from typing import Any

import grpc

from shared.proto.featherwire.v1 import ingest_pb2, ingest_pb2_grpc
from shared.wire.requests import Hello, hello_message
from shared.wire.transport import client_options


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
        self._hello = Hello(device, session, can_switch_bundle=True)
        self._channel = grpc.aio.insecure_channel(address, options=client_options())
        self._call: Any = ingest_pb2_grpc.IngestServiceStub(self._channel).Connect()
        self._credits = 0
        self._changed = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Device:
        """Say Hello, and have Welcome."""
        await self._call.write(ingest_pb2.ConnectRequest(hello=hello_message(self._hello)))
        first = await self._call.read()
        self.welcome: ingest_pb2.Welcome = first.welcome
        self.sequence = self.welcome.resume_after_sequence
        self._credits = self.welcome.credits
        self._reader = asyncio.create_task(self._read())
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._call.cancel()
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
        await self._channel.close()

    async def send(self, frame: ingest_pb2.Frame) -> int:
        """Send a frame under the next sequence, once there is credit; returns that."""
        while self._credits == 0:
            await self._wait()
        self._credits -= 1
        self.sequence += 1
        frame.sequence = self.sequence
        self._sent_at[self.sequence] = time.perf_counter()
        await self._call.write(ingest_pb2.ConnectRequest(frame=frame))
        return self.sequence

    async def settled(self) -> None:
        """Wait until every frame has its ack and its result."""
        while self._sent_at or len(self.acks) < len(self.results):
            await self._wait()

    async def beat(self) -> None:
        """Send a heartbeat; its answer is not awaited."""
        await self._call.write(
            ingest_pb2.ConnectRequest(heartbeat=ingest_pb2.Heartbeat(nonce=1))
        )

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
                self._take(response)
                self._changed.set()
        finally:
            self._changed.set()

    def _take(self, response: ingest_pb2.ConnectResponse) -> None:
        kind = response.WhichOneof("message")
        if kind == "ack":
            self.acks.append(response.ack.sequence)
        elif kind == "credit":
            self._credits += response.credit.credits
        elif kind == "result":
            sequence = response.result.sequence
            self.results.append(sequence)
            if response.result.outcome.HasField("error"):
                self.errors.append(response.result.outcome.error.reason)
            self.latencies_s.append(time.perf_counter() - self._sent_at.pop(sequence))
        elif kind == "error":
            raise ConnectionError(response.error.reason)
