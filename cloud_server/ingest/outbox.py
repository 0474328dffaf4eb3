"""What waits to be written to a client, and the writing of it: together where the client can."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable

from shared.errors import SessionError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.transport import BATCH_BYTES, BATCH_MESSAGES

Write = Callable[[ingest_pb2.ConnectResponse], Awaitable[None]]


class Outbox:
    """Messages in their order."""

    def __init__(self) -> None:
        self.takes_batches = False
        """Whether the client reads a ResponseBatch."""
        self._messages: deque[ingest_pb2.ConnectResponse] = deque()
        self._writing_since: float | None = None

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: ingest_pb2.ConnectResponse) -> None:
        """Queue a message."""
        self._messages.append(message)

    async def write(self, write: Write) -> None:
        """Write what is first: all that is ready, where the client takes it together."""
        message = self._next()
        self._writing_since = time.monotonic()
        await write(message)
        self._writing_since = None

    async def watch(self, timeout_s: float) -> None:
        """End a stream whose client takes nothing off it.

        Raises ``SessionError("slow_consumer")`` when one message is written for so long.
        """
        while True:
            await asyncio.sleep(timeout_s / 4)
            since = self._writing_since
            if since is not None and time.monotonic() - since > timeout_s:
                raise SessionError(
                    "slow_consumer", f"nothing was read from the stream for {timeout_s:g} s"
                )

    def _next(self) -> ingest_pb2.ConnectResponse:
        first = self._messages.popleft()
        if not (self.takes_batches and self._messages):
            return first
        size = first.ByteSize()
        batch = [first]
        while self._messages and len(batch) < BATCH_MESSAGES:
            size += self._messages[0].ByteSize()
            if size > BATCH_BYTES:
                break
            batch.append(self._messages.popleft())
        if len(batch) == 1:
            return first
        response = ingest_pb2.ConnectResponse()
        response.batch.responses.extend(batch)
        return response
