"""A rate as a bucket: what may go now, so that the average keeps the rate and nothing waits long.

The bucket fills at the rate and holds ``BUCKET_S`` seconds of it; what is sent takes its bytes out.
That bounds bursts, and with them the delay of a link that is as fast as the rate. It alone would
let ten seconds have a fifth more than their worth after a quiet time, so a window bounds them
besides: in any ``WINDOW_S`` seconds no more than ``EXCESS`` times their worth. (A leaky bucket, as
of ITU-T I.371, and a sliding window.) Time may be anything that goes on: a rate in bytes a frame
has frames for seconds.
"""

from __future__ import annotations

from collections import deque

BUCKET_S = 2.0
WINDOW_S = 10.0
EXCESS = 1.05
_GRAINS = 200.0
"""The window is as exact as so many parts of it."""

MESSAGE_BYTES = 96
"""Of gRPC and HTTP/2 around one message: headers of frames, the acknowledgements of settings."""
OVERHEAD = 1.01
"""Of long messages: a header of 9 bytes for each 16 KiB, and window updates."""


def cost(message_bytes: float) -> float:
    """Bytes on the wire of a message, a little more than they are."""
    return message_bytes * OVERHEAD + MESSAGE_BYTES


def message_of(wire_bytes: float) -> float:
    """Bytes of the message that has this :func:`cost`; below 0 where none is so small."""
    return (wire_bytes - MESSAGE_BYTES) / OVERHEAD


class Bucket:
    """In any time T at most ``rate * (T + bucket_s)`` bytes pass, and at most ``EXCESS`` times
    their worth in ``WINDOW_S``; one message that is larger than what these leave goes when the
    bucket is full, and is a debt."""

    def __init__(
        self, rate: float, now_s: float, *, unit_s: float = 1.0, bucket_s: float = BUCKET_S
    ) -> None:
        """rate: bytes a unit of time. It starts full. now_s: of a clock that never goes back, here
        and below, in units. unit_s: units in a second. bucket_s: seconds of the rate it holds."""
        self._bucket_s = bucket_s
        self._rate = rate
        self._unit_s = unit_s
        self._tokens = self.capacity
        self._at_s = now_s
        self._recent: deque[tuple[float, float]] = deque()
        self._sum = 0.0
        self._grain_s = now_s

    @property
    def rate(self) -> float:
        """Bytes a unit of time."""
        return self._rate

    @property
    def capacity(self) -> float:
        """Bytes that it holds when it is full."""
        return self._rate * self._bucket_s * self._unit_s

    @property
    def _window_s(self) -> float:
        return WINDOW_S * self._unit_s

    @property
    def _limit(self) -> float:
        return EXCESS * self._rate * self._window_s

    def set_rate(self, rate: float, now_s: float, *, unit_s: float = 1.0) -> None:
        """Change the rate from now on."""
        self._fill(now_s)
        self._rate, self._unit_s = rate, unit_s
        self._tokens = min(self._tokens, self.capacity)

    def room(self, now_s: float) -> float:
        """Bytes that may go now; below 0 there is a debt."""
        self._fill(now_s)
        return min(self._tokens, self._limit - self._sum)

    def wait_s(self, size: float, now_s: float) -> float:
        """Time until so many bytes may go; 0 when they may now."""
        self._fill(now_s)
        missing = min(size, self.capacity) - self._tokens
        # Below a byte it is rounding, which would be waited for again and again.
        wait_s = missing / self._rate if missing > 1.0 else 0.0
        # Few large messages fit into a window badly: they are left to the bucket, whose average is
        # the rate too.
        slack = (EXCESS - 1) * self._rate * self._window_s
        over = self._sum + (size if size <= self.capacity / 2 else slack) - self._limit
        for at_s, bytes_ in self._recent if over > 1.0 else ():
            wait_s = max(wait_s, at_s + self._window_s - now_s)
            over -= bytes_
            if over <= 1.0:
                break
        return wait_s

    def spend(self, size: float, now_s: float) -> None:
        """Take sent bytes out of it."""
        self._fill(now_s)
        self._tokens -= size
        self._sum += size
        # What goes together leaves the window together, with the last of it, so never early.
        if now_s - self._grain_s < self._window_s / _GRAINS and self._recent:
            size += self._recent.pop()[1]
        else:
            self._grain_s = now_s
        self._recent.append((now_s, size))

    def _fill(self, now_s: float) -> None:
        elapsed_s = max(0.0, now_s - self._at_s)
        self._at_s = max(self._at_s, now_s)
        self._tokens = min(self.capacity, self._tokens + elapsed_s * self._rate)
        while self._recent and self._recent[0][0] + self._window_s <= self._at_s:
            self._sum -= self._recent.popleft()[1]
        if not self._recent:
            self._sum = 0.0
