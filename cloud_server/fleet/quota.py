"""How much a device sends, and how much it may.

A quota is kept by withholding credits: what has come is processed, and the next credit waits until
the device's buckets are out of debt. So over time a device sends what its quota allows, and no
frame is lost.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from shared.errors import SessionError

RATE_OVER_S = 5.0
"""Rates are means over about so long; the newest counts most."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Quota:
    """What one device may send a second; None: as much as it can. ``burst_s`` may come at once."""

    frames: float | None = None
    bytes: float | None = None
    pixels: float | None = None
    burst_s: float = 5.0


class Bucket:
    """A token bucket that may go into debt: what was sent was sent."""

    def __init__(self, rate: float, burst_s: float, clock: Clock) -> None:
        self._rate = rate
        self._most = rate * burst_s
        self._level = self._most
        self._clock = clock
        self._at = clock()

    def take(self, amount: float) -> None:
        """Take ``amount`` out, whether it is there or not."""
        self._fill()
        self._level -= amount

    def delay_s(self) -> float:
        """Seconds until it is out of debt; 0 when it is."""
        self._fill()
        return max(0.0, -self._level / self._rate)

    def _fill(self) -> None:
        now = self._clock()
        self._level = min(self._most, self._level + self._rate * max(0.0, now - self._at))
        self._at = now


class Rate:
    """An exponential mean of amounts a second."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._value = 0.0
        self._at = clock()

    def add(self, amount: float) -> None:
        """Count ``amount`` now."""
        self._value = self.value + amount / RATE_OVER_S
        self._at = self._clock()

    @property
    def value(self) -> float:
        """A second, of late."""
        return self._value * math.exp(-max(0.0, self._clock() - self._at) / RATE_OVER_S)


class Meter:
    """Of one device, however many streams it has."""

    def __init__(self, quota: Quota, clock: Clock = time.monotonic) -> None:
        self._buckets = {
            name: Bucket(rate, quota.burst_s, clock)
            for name, rate in (
                ("frames", quota.frames),
                ("bytes", quota.bytes),
                ("pixels", quota.pixels),
            )
            if rate is not None
        }
        self.frames = Rate(clock)
        self.bytes = Rate(clock)
        self.withheld = 0
        """How often a credit had to wait."""
        self.refused = 0
        """Calls outside streams that were turned away."""

    @property
    def limited(self) -> bool:
        """Whether the device has a quota."""
        return bool(self._buckets)

    def count(self, *, frames: int = 0, bytes: int = 0, pixels: int = 0) -> None:
        """Something was sent."""
        for name, amount in (("frames", frames), ("bytes", bytes), ("pixels", pixels)):
            if name in self._buckets:
                self._buckets[name].take(amount)
        if frames:
            self.frames.add(frames)
        if bytes:
            self.bytes.add(bytes)

    def delay_s(self) -> float:
        """Seconds until the device may send again; 0: now."""
        return max((bucket.delay_s() for bucket in self._buckets.values()), default=0.0)

    def check(self) -> None:
        """Raise ``SessionError("quota_exceeded")`` while the device may not send."""
        delay_s = self.delay_s()
        if delay_s > 0:
            self.refused += 1
            raise SessionError(
                "quota_exceeded",
                f"this device has used up its quota; try again in {delay_s:.1f} s",
                retry_after_s=round(delay_s, 3),
            )
