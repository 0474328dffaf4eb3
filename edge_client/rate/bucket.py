"""A token bucket: bytes a second on average, a second's worth at once."""

from __future__ import annotations

BURST_S = 1.0
MESSAGE_BYTES = 96
"""Of gRPC and HTTP/2 around one message: headers of frames, the acknowledgements of settings."""
OVERHEAD = 1.01
"""Of long messages: a header of 9 bytes for each 16 KiB, and window updates."""


class TokenBucket:
    """In any time T at most ``bytes_per_second * (T + BURST_S)`` bytes pass, or one frame more
    than T's worth where a frame is larger than the burst."""

    def __init__(self, bytes_per_second: float, now_s: float) -> None:
        """Starts full. ``now_s``: of a clock that never goes back, here and below."""
        self._rate = bytes_per_second
        self._tokens = self._burst
        self._at_s = now_s

    @property
    def bytes_per_second(self) -> float:
        """The budget."""
        return self._rate

    @property
    def _burst(self) -> float:
        return self._rate * BURST_S

    def set_rate(self, bytes_per_second: float, now_s: float) -> None:
        """Another budget from now on."""
        self._fill(now_s)
        self._rate = bytes_per_second
        self._tokens = min(self._tokens, self._burst)

    def wait_s(self, message_bytes: int, now_s: float) -> float:
        """Seconds until a message may go; 0 when it may now."""
        self._fill(now_s)
        missing = min(cost(message_bytes), self._burst) - self._tokens
        # Below a byte it is rounding, which would be waited for again and again.
        return missing / self._rate if missing > 1.0 else 0.0

    def spend(self, message_bytes: int, now_s: float) -> None:
        """A message goes; one larger than the burst leaves a debt."""
        self._fill(now_s)
        self._tokens -= cost(message_bytes)

    def _fill(self, now_s: float) -> None:
        elapsed_s = max(0.0, now_s - self._at_s)
        self._at_s = max(self._at_s, now_s)
        self._tokens = min(self._burst, self._tokens + elapsed_s * self._rate)


def cost(message_bytes: int) -> float:
    """Bytes on the wire of a message, a little more than they are."""
    return message_bytes * OVERHEAD + MESSAGE_BYTES
