"""The sockets of a device on asyncio: one stream at a time, for a ``DeviceProtocol``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Generic

import grpc

from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.rpc.channel import AsyncChannel
from shared.rpc.errors import error_from_call
from shared.wire.device_events import Context, Event, Failed, Sent
from shared.wire.device_protocol import DeviceProtocol
from shared.wire.transport import CONNECT


def connect(channel: AsyncChannel) -> Any:
    """The call of a stream: it writes bytes and reads ``ConnectResponse``."""
    return channel.stream_stream(
        CONNECT, response_deserializer=ingest_pb2.ConnectResponse.FromString
    )()


class DeviceClient(Generic[Context]):
    """Sends what a protocol has to send, and hands out what comes of the server's messages.

    Once it is open a reader and a writer run beside their owner until the stream ends; why it did
    is then ``protocol.failure``.
    """

    def __init__(
        self,
        call: Any,
        protocol: DeviceProtocol[Context],
        handle: Callable[[Event[Context]], None] = lambda event: None,
        *,
        error_of: Callable[[grpc.aio.AioRpcError], FeatherwireError] | None = None,
    ) -> None:
        """call: of ``connect``, or what reads and writes like it. handle: takes every event; an
        error that it raises ends the stream. error_of: of a call that failed."""
        self.protocol = protocol
        self._call = call
        self._handle = handle
        self._error_of = error_of or (lambda error: error_from_call(error, protocol.server))
        self._changed = asyncio.Event()
        self._filled = asyncio.Event()
        self._reader: asyncio.Task[None] | None = None
        self._writer: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Say Hello, and have Welcome. Raises ``FeatherwireError``."""
        self.protocol.connect(time.monotonic())
        self._writer = asyncio.create_task(self._write())
        self._reader = asyncio.create_task(self._read())
        try:
            while self.protocol.welcome is None:
                await self.wait()
        except BaseException:
            await self.close()
            raise

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self._reader is None or self._reader.done()

    def send(self, frame: ingest_pb2.Frame, context: Context) -> Sent[Context]:
        """Send a frame; raises as ``DeviceProtocol.send_frame`` does."""
        sent = self.protocol.send_frame(frame, context, time.monotonic())
        self._filled.set()
        return sent

    def flush(self) -> None:
        """The protocol has something to send that was not sent by ``send``."""
        self._filled.set()

    async def wait(self, timeout_s: float | None = None, *others: asyncio.Event) -> None:
        """Wait for a message, the stream's end, one of ``others``, or so long.

        Raises ``FeatherwireError``, why the stream has ended, once it has.
        """
        if not self.ended:
            self._changed.clear()
            if timeout_s is None and not others:
                await self._changed.wait()
            else:
                events = (self._changed, *others)
                waits = [asyncio.create_task(one.wait()) for one in events]
                try:
                    await asyncio.wait(
                        waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    for wait in waits:
                        wait.cancel()
        if self._reader is not None and self._reader.done():
            self._reader.result()  # an error that is nobody's but ours
            raise self.protocol.failure or SessionError("closed", "this stream is closed")

    async def end(self) -> None:
        """Say Bye, and wait for the end; raises why the stream ended, unless that is why."""
        self.protocol.bye()
        self._filled.set()
        assert self._reader is not None, "only what was opened ends"
        await self._reader
        failure = self.protocol.failure
        if failure is not None and failure.reason != "closed":
            raise failure

    async def close(self) -> None:
        """End the stream at once."""
        tasks = [task for task in (self._reader, self._writer) if task is not None]
        for task in tasks:
            task.cancel()
        self._call.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _write(self) -> None:
        while True:
            while (message := self.protocol.next_message()) is not None:
                await self._call.write(message)
            if self.protocol.closing:
                await self._call.done_writing()
                return
            self._filled.clear()
            await self._filled.wait()

    async def _read(self) -> None:
        error: FeatherwireError | None = None
        try:
            while (response := await self._call.read()) is not grpc.aio.EOF:
                for event in self.protocol.receive(response, time.monotonic()):
                    self._handle(event)
                    if isinstance(event, Failed):
                        raise event.error
                if self.protocol.has_message:
                    self._filled.set()
                self._changed.set()
        except grpc.aio.AioRpcError as failure:
            error = self._error_of(failure)
        except FeatherwireError as failure:
            error = failure
        finally:
            self.protocol.disconnected(error)
            self._changed.set()
