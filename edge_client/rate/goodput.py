"""What the network takes, from the times at which frames are sent and acknowledged.

Between two acknowledgements the link carried the second frame, and nothing else, when that frame
was already waiting behind the first: then its bytes over that time are the link's rate. A frame
that found the link idle says only that the link is no slower, and is not counted. A frame that is
not acknowledged for long says at once that the link is no faster than its bytes over that time.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass

FRESH_S = 5.0
SAMPLES = 12
ENOUGH_S = 2.0
MAX_WINDOW = 64
STALLED_S = 3.0
WINDOW_S = 1.5
"""So many seconds of bytes may be under way."""


@dataclass(frozen=True, slots=True)
class LinkRate:
    """``bytes_per_second`` of the link; not ``exact``: it is no faster than that."""

    bytes_per_second: float
    exact: bool = True


class Goodput:
    """Times are seconds of a clock that never goes back."""

    def __init__(self) -> None:
        self._in_flight: OrderedDict[int, tuple[float, int]] = OrderedDict()
        self._bytes = 0
        self._last_ack_s: float | None = None
        self._quickest: tuple[float, int] = (float("inf"), 0)
        # Bytes a second between acknowledgements of frames that were under way together.
        self._gap_rates: deque[float] = deque(maxlen=SAMPLES)
        # When, bytes, seconds.
        self._samples: deque[tuple[float, int, float]] = deque(maxlen=SAMPLES)
        self._window = 2
        self._clear_since_s: float | None = None
        self.queue_delay_s = 0.0
        """Of the last acknowledged frame: how much longer it took than the quickest."""

    @property
    def bytes_in_flight(self) -> int:
        """Sent and not acknowledged."""
        return self._bytes

    def sent(self, sequence: int, size: int, now_s: float) -> None:
        """A frame goes out."""
        if sequence not in self._in_flight:
            self._in_flight[sequence] = (now_s, size)
            self._bytes += size

    def acknowledged(self, sequence: int, now_s: float) -> int:
        """A frame has arrived; returns its bytes, 0 when that was known."""
        if sequence not in self._in_flight:
            return 0
        sent_s, size = self._in_flight.pop(sequence)
        self._bytes -= size
        latency_s = now_s - sent_s
        self._quickest = min(self._quickest, (latency_s, size))
        self.queue_delay_s = latency_s - self._quickest[0]
        queued = self._queued(sent_s, size, now_s)
        if queued:
            self._window = 2
            self._clear_since_s = None
        elif self._quick(size, latency_s):
            self._window = min(MAX_WINDOW, self._window + 1)
            self._clear_since_s = now_s if self._clear_since_s is None else self._clear_since_s
        else:
            self._window = max(2, self._window - 1)
            self._clear_since_s = None
        self._last_ack_s = now_s
        return size

    def _quick(self, size: int, latency_s: float) -> bool:
        """Whether a frame took about as long as the quickest one, for its size."""
        quickest_s, quickest_size = self._quickest
        return latency_s <= quickest_s * max(1.0, size / max(1, quickest_size)) * 1.25 + 0.1

    def _queued(self, sent_s: float, size: int, now_s: float) -> bool:
        """Whether a frame waited behind another one; then the link's rate is noted."""
        last_s = self._last_ack_s
        if last_s is not None and sent_s < last_s < now_s:
            gap_s = now_s - last_s
            self._gap_rates.append(size / gap_s)
            best = max(self._gap_rates)
            travel_s = max(0.0, self._quickest[0] - self._quickest[1] / best)
            # Half a frame's time of slack: frames that merely follow each other closely, on a
            # long way, are no queue.
            if sent_s <= last_s - travel_s - 0.5 * size / best:
                self._samples.append((now_s, size, gap_s))
                return True
        return False

    def lost(self) -> None:
        """The stream has ended: what was under way will be sent again."""
        self._in_flight.clear()
        self._bytes = 0
        self._last_ack_s = None
        self._quickest = (float("inf"), 0)
        self._gap_rates.clear()
        self._samples.clear()
        self._window = 2
        self._clear_since_s = None

    def clear_s(self, now_s: float, since_s: float) -> float:
        """Seconds after ``since_s`` over which frames came through and none waited."""
        if self._clear_since_s is None or self._last_ack_s is None:
            return 0.0
        if self._in_flight:
            sent_s, _ = next(iter(self._in_flight.values()))
            if now_s - sent_s > 2 * self._quickest[0] + 0.5:
                return 0.0
        return max(0.0, self._last_ack_s - max(self._clear_since_s, since_s))

    def rate(self, now_s: float) -> LinkRate | None:
        """The link's rate of the last seconds; None while frames do not wait for each other."""
        fresh = [
            (size, gap_s)
            for at_s, size, gap_s in self._samples
            if now_s - at_s <= max(FRESH_S, 3 * gap_s)
        ]
        seconds = sum(gap_s for _, gap_s in fresh)
        rate = None
        if len(fresh) >= 3 or seconds >= ENOUGH_S:
            rate = LinkRate(sum(size for size, _ in fresh) / seconds)
        if self._in_flight:
            sent_s, size = next(iter(self._in_flight.values()))
            waited_s = now_s - max(sent_s, self._last_ack_s or sent_s)
            if waited_s > STALLED_S + min(self._quickest[0], STALLED_S):
                bound = size / waited_s
                if rate is None or bound < rate.bytes_per_second:
                    rate = LinkRate(bound, exact=False)
        return rate

    def may_send(self, now_s: float) -> bool:
        """Whether so little is under way that one more would not only wait behind it."""
        if len(self._in_flight) < 2:
            return True
        rate = self.rate(now_s)
        if rate is None:
            free = len(self._in_flight) < self._window
        else:
            free = self._bytes < rate.bytes_per_second * WINDOW_S
        if not free:
            self._clear_since_s = None  # something waits
        return free
