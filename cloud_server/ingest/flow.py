"""How much of one stream is under way: its limits, its credits, what waits to be written.

A client sends as many frames as it has credits for; each comes back with its result. Where the
server has more to do than it can, a device has no more than its share of what is under way; where
a device is at its quota, credits are withheld. Messages to the client go out together where it can
read that.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from cloud_server.fleet.quota import Meter
from cloud_server.ingest.sessions import Session
from cloud_server.telemetry.metrics import Metrics
from shared.bitstream import Bitstream
from shared.errors import SessionError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire.transport import (
    BATCH_BYTES,
    BATCH_MESSAGES,
    DEADLINE_PER_MEGAPIXEL_S,
    frame_deadline,
)

LEAST_PAUSE_S = 0.05
"""Between credits of a device that is at its quota."""

BACKLOG_EVERY_S = 5.0
"""A device whose frames are still to be answered is told so this often; more often where frames
have little time, so that a device that waits for their deadline hears of it."""

Share = Callable[[int], int]
"""Of so many frames that a device may have in flight, how many it may have now; one at least."""

Write = Callable[[ingest_pb2.ConnectResponse], Awaitable[None]]
"""Hands one message to the client, and returns once it is on its way."""


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of one stream; times in seconds.

    ``credits`` are for frames that are analysed. A client whose frames are only kept earns more, up
    to ``kept_credits``: those share commits, and need no more than the log.
    """

    credits: int = 8
    kept_credits: int = 256
    max_pixels_in_flight: int = 128 * 2**20
    max_bytes_in_flight: int = 64 * 2**20
    hello_timeout_s: float = 10.0
    frame_deadline_s: float = 30.0
    deadline_per_megapixel_s: float = DEADLINE_PER_MEGAPIXEL_S
    write_timeout_s: float = 30.0

    @property
    def backlog_every_s(self) -> float:
        """Seconds between words to a device whose frames are still to be answered."""
        return min(BACKLOG_EVERY_S, self.frame_deadline_s / 4)

    def deadline_of(self, bitstream: Bitstream) -> float:
        """Seconds for a frame; larger pictures have longer."""
        return frame_deadline(
            self.frame_deadline_s,
            bitstream.width,
            bitstream.height,
            self.deadline_per_megapixel_s,
        )


class Credits:
    """Credits of one stream: as many frames as its limits allow, those in flight included.

    While the server is busy that is the device's ``share`` of what is under way. Credits that a
    client has stay its own; those of frames that come back are kept until it has no more than its
    share, and come back two for one when there is room again.

    A client whose frames are only kept earns more, one for each, up to ``kept_credits``: while one
    commit runs it can fill the next. A frame that asks for something takes the number back to
    the share at once.
    """

    def __init__(
        self, limits: StreamLimits, metrics: Metrics, send: Callable[[int], None], share: Share
    ) -> None:
        """send: gives the client so many credits."""
        self.available = 0
        """Frames that the client may send now."""
        self._earned = 0
        self._limits = limits
        self._metrics = metrics
        self._send = send
        self._share = share
        self._session: Session | None = None
        self._meter: Meter | None = None
        self._releasing: asyncio.TimerHandle | None = None
        self._closed = False

    @property
    def most(self) -> int:
        """Frames that may be in flight."""
        return self._share(self._limits.credits) + self._earned

    def open(self, session: Session, meter: Meter) -> int:
        """The credits that the client begins with."""
        self._session, self._meter = session, meter
        self.available = max(0, self.most - session.in_flight)
        if meter.delay_s() > 0:
            self.available = 0
            self._withhold(meter)
        return self.available

    def close(self) -> None:
        """Release nothing more by time; from here on only frames in flight return their credits."""
        self._closed = True
        if self._releasing is not None:
            self._releasing.cancel()

    def spend(self) -> None:
        """Take the credit of a frame that has come. Raises ``SessionError("credits_exceeded")``."""
        if self.available <= 0:
            raise SessionError(
                "credits_exceeded", "the client sent more frames than it had credits for"
            )
        self.available -= 1

    def asked(self) -> None:
        """Bound what is in flight to what may be analysed: a frame asks for a task or picture."""
        self._earned = 0

    def earn(self, frames: int) -> None:
        """Return the credits of frames that were only kept, and as many more as may be."""
        if self._meter is not None and not self._meter.limited:
            more = max(0, self._limits.kept_credits - self._limits.credits)
            self._earned = min(more, self._earned + frames)
        self.grant(2 * frames)

    def grant(self, credits: int) -> None:
        """Return credits, but for more frames than may be in flight, or than the quota has room."""
        session, meter = self._session, self._meter
        if session is None or meter is None:
            return
        credits = min(credits, self.most - self.available - session.in_flight)
        if credits <= 0:
            return
        if self._releasing is not None or meter.delay_s() > 0:
            self._withhold(meter)
            return
        self.available += credits
        self._send(credits)

    def _withhold(self, meter: Meter) -> None:
        """Grant nothing until the device's quota has room again."""
        if self._releasing is None:
            meter.withheld += 1
            self._metrics.withheld.inc()
            delay_s = max(meter.delay_s(), LEAST_PAUSE_S)
            self._releasing = asyncio.get_running_loop().call_later(delay_s, self._release, meter)

    def _release(self, meter: Meter) -> None:
        """Grant one credit, and the next one after another look at the quota."""
        self._releasing = None
        if self._closed or self._session is None:
            return
        self.grant(1)
        if self.most > self.available + self._session.in_flight:
            self._withhold(meter)


class Outbox:
    """Messages that wait to be written to the client, in their order."""

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
        """Write the first message, or all that are ready where the client takes batches."""
        message = self._next()
        self._writing_since = time.monotonic()
        await write(message)
        self._writing_since = None

    async def watch(self, timeout_s: float) -> None:
        """End a stream whose client reads nothing.

        Raises ``SessionError("slow_consumer")`` when one message is written for so long.
        """
        while True:
            await asyncio.sleep(timeout_s / 4)
            since = self._writing_since
            if since is not None and time.monotonic() - since > timeout_s:
                raise SessionError(
                    "slow_consumer", f"the client read nothing from the stream for {timeout_s:g} s"
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
