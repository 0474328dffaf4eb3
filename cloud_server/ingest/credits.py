"""Credits of one stream: what its client may send, what comes back, what a quota withholds."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from cloud_server.fleet.quota import Meter
from cloud_server.ingest.limits import StreamLimits
from cloud_server.ingest.sessions import Session
from cloud_server.telemetry.metrics import Metrics
from shared.errors import SessionError

LEAST_PAUSE_S = 0.05
"""Between credits of a device that is at its quota."""


class Credits:
    """As many frames as the limits say, those in flight included.

    A client whose frames are only kept earns more, one for each, up to ``kept_credits``: while one
    commit runs it can fill the next. A frame that asks for something takes the number back to
    ``credits`` at once; what the client has by then stays its own.
    """

    def __init__(self, limits: StreamLimits, metrics: Metrics, send: Callable[[int], None]) -> None:
        """send: gives the client so many credits."""
        self.available = 0
        """Frames that the client may send now."""
        self.most = limits.credits
        """Frames that may be in flight."""
        self._limits = limits
        self._metrics = metrics
        self._send = send
        self._session: Session | None = None
        self._meter: Meter | None = None
        self._releasing: asyncio.TimerHandle | None = None
        self._closed = False

    def open(self, session: Session, meter: Meter) -> int:
        """The credits that the client begins with."""
        self._session, self._meter = session, meter
        self.available = max(0, self.most - session.in_flight)
        if meter.delay_s() > 0:
            self.available = 0
            self._withhold(meter)
        return self.available

    def close(self) -> None:
        """No more comes by itself: what is granted from here on is that of frames in flight."""
        self._closed = True
        if self._releasing is not None:
            self._releasing.cancel()

    def spend(self) -> None:
        """A frame has come. Raises ``SessionError("credits_exceeded")``."""
        if self.available <= 0:
            raise SessionError(
                "credits_exceeded", "more frames were sent than there was credit for"
            )
        self.available -= 1

    def asked(self) -> None:
        """A frame asks for something: no more are in flight than may be analysed."""
        self.most = self._limits.credits

    def earn(self, frames: int) -> None:
        """Return the credits of frames that were only kept, and as many more as may be."""
        if self._meter is not None and not self._meter.limited:
            more = max(self._limits.credits, self._limits.kept_credits)
            self.most = min(more, self.most + frames)
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
