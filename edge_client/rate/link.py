"""What the network takes, from the times at which frames are sent and acknowledged.

The link is thought of as a pipe that sends one frame after another at ``B`` bytes a second, and
takes ``p`` seconds besides: a frame of ``s`` bytes that finds it empty is acknowledged after
``p + s / B``; one that had to wait is acknowledged ``s / B`` after the one before it. So

- bytes over the shorter of the two times, latency and gap, are never more than ``B`` (``floor``);
- bytes over the gap are exactly ``B`` where a frame certainly waited (``rate``), which is when it
  took longer than the quickest frames of the last ten seconds say of its size;
- a frame that is not acknowledged for long says that ``B`` is no more than its bytes over that
  time;
- the least of ``latency - s / B`` over ten seconds is ``p``.

What the server says it took itself (to decode, to write to its log) is taken from both times, as
the delay of acknowledgements is in QUIC (RFC 9002, 5.3): else the small frames of a still scene
would make a busy server look like a slow network.

Only a frame that found the pipe empty tells waiting and ``p`` apart, so when there was none for ten
seconds the pipe is let run dry once. Delivery rates, the windowed minimum and its refreshment are
those of BBR (Cardwell et al., "BBR: Congestion-Based Congestion Control", ACM Queue 14 (5), 2016),
with frames in the place of packets, whose sizes are known and differ.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterable
from dataclasses import dataclass

from shared.wire.transport import KEEPALIVE_TIMEOUT_S

WINDOW_S = 10.0
WINDOW_LATENCIES = 6
"""The window is as long as so many frames, where those take longer."""
SAMPLES = 64
FRESH_S = 4.0
RECENT = 6
TOGETHER_S = 0.02
"""Acknowledgements that come so close together are one: they were held up together."""
JITTER_S = 0.03
SLACK = 0.1
MAX_FRAMES = 64
QUEUE_S = 0.5
"""A frame may wait so long behind others, or behind a single one."""

FLOOD_S = 0.4 * KEEPALIVE_TIMEOUT_S
"""So many seconds of bytes may be under way where no bandwidth is given."""
FIRST_BYTES = 16 * 2**10
"""So many while the link is not known."""


@dataclass(frozen=True, slots=True)
class LinkRate:
    """``bytes_per_second`` of the link; not ``exact``: it is no faster than that."""

    bytes_per_second: float
    exact: bool = True


@dataclass(slots=True)
class _Sample:
    """Acknowledged frames. ``gap_s``: since the acknowledgement before, inf where the pipe had
    been empty. ``queued``: it certainly waited behind others."""

    at_s: float
    size: int
    latency_s: float
    gap_s: float
    queued: bool
    began_s: float

    @property
    def service_s(self) -> float:
        return min(self.latency_s, self.gap_s)


@dataclass(frozen=True, slots=True)
class _Sent:
    at_s: float
    size: int
    alone: bool


class LinkModel:
    """Estimates the network's rate and propagation time from frames that were acknowledged.

    All times are seconds of a clock that never goes back.
    """

    def __init__(self) -> None:
        self._in_flight: OrderedDict[Hashable, _Sent] = OrderedDict()
        self._bytes = 0
        self.queue_delay_s = 0.0
        """Of the last acknowledged frame: how long it certainly waited."""
        self._forget()

    def _forget(self) -> None:
        self._samples: deque[_Sample] = deque(maxlen=SAMPLES)
        self._last_ack_s = -math.inf
        self._dry_s = -math.inf
        self._most = 1  # until the first one has come back
        self._queued_s = -math.inf
        self._last_sent_s = -math.inf
        # The last exact rate, until frames come sooner than it would let them.
        self._known: float | None = None

    # -- what happens ----------------------------------------------------------------------------

    def sent(self, key: Hashable, size: int, now_s: float) -> None:
        """Note that a frame goes out, or anything else that will be acknowledged."""
        if key not in self._in_flight:
            self._in_flight[key] = _Sent(now_s, size, alone=not self._in_flight)
            self._bytes += size

    def acknowledged(self, key: Hashable, now_s: float, held_s: float = 0.0) -> int:
        """Note that a frame has arrived; returns its bytes, 0 when that was known.

        held_s: for how long the server says that it had the frame before it said so.
        """
        if key not in self._in_flight:
            return 0
        # They come in order: what is before it has come too, whatever became of its own.
        while next(iter(self._in_flight)) != key:
            self._bytes -= self._in_flight.popitem(last=False)[1].size
        frame = self._in_flight.pop(key)
        self._bytes -= frame.size
        # They arrived in order too, whatever the server did with each.
        now_s = max(now_s - held_s, frame.at_s, self._last_ack_s)
        self._note(frame, now_s)
        self._last_ack_s = now_s
        self._last_sent_s = frame.at_s
        return frame.size

    def lost(self) -> None:
        """Note that the stream has ended: what was under way will be sent again, perhaps on
        another way."""
        self._in_flight.clear()
        self._bytes = 0
        self._forget()

    def _note(self, frame: _Sent, now_s: float) -> None:
        latency_s = now_s - frame.at_s
        gap_s = math.inf if frame.alone else now_s - self._last_ack_s
        unqueued_s = self._unqueued_s(frame.size, now_s)
        waited_s = latency_s - unqueued_s
        late = waited_s > JITTER_S + SLACK * unqueued_s
        if frame.alone:
            if late:  # nothing was before it: the network has changed
                self._samples.clear()
            waited_s = 0.0
        if frame.alone or latency_s <= (1 + SLACK / 2) * self._least_s(now_s):
            self._dry_s = now_s
        queued = late and not frame.alone
        self.queue_delay_s = max(0.0, waited_s) if queued else 0.0
        last = self._samples[-1] if self._samples else None
        if last is not None and gap_s < TOGETHER_S and now_s - last.began_s < 5 * TOGETHER_S:
            last.at_s = now_s
            last.size += frame.size
            last.latency_s += gap_s
            last.gap_s += gap_s
        else:
            self._samples.append(_Sample(now_s, frame.size, latency_s, gap_s, queued, now_s))
        self._keep_rate(now_s)
        if queued:
            self._queued_s = now_s
            self._most = max(2, self._most // 2)
        elif len(self._in_flight) + 2 >= self._most:
            self._most = min(MAX_FRAMES, max(2, self._most + 1))

    def _keep_rate(self, now_s: float) -> None:
        rate = self.rate(now_s)
        if rate is not None and rate.exact:
            self._known = rate.bytes_per_second
        elif self._known is not None:
            propagation_s = self.propagation_s(now_s, self._known)
            if self.floor(now_s, propagation_s) > (1 + 2 * SLACK) * self._known:
                self._known = None

    # -- estimates --------------------------------------------------------------------------

    def rate(self, now_s: float) -> LinkRate | None:
        """The link's rate; None while frames do not wait for each other, nor for long."""
        exact = [one for one in self._recent(now_s) if one.queued]
        rate = None
        if len(exact) >= 2 or sum(one.gap_s for one in exact) >= 1.0:
            rate = LinkRate(_ratio((one.size, one.gap_s) for one in exact))
        if self._in_flight:
            oldest = next(iter(self._in_flight.values()))
            waited_s = now_s - max(oldest.at_s, self._last_ack_s)
            spare_s = self._least_s(now_s) if self._samples else 0.0
            if waited_s > 1.0 + 2 * spare_s:
                bound = oldest.size / (waited_s - spare_s)
                if rate is None or bound < rate.bytes_per_second:
                    rate = LinkRate(bound, exact=False)
        return rate

    def floor(self, now_s: float, propagation_s: float = 0.0) -> float:
        """Bytes a second that the link takes at least, by the last frames; 0 when not known.

        With ``propagation_s`` it is what the link takes if that is its ``p``.
        """
        recent = self._recent(now_s)
        if len(recent) < 2:
            return 0.0
        return _ratio(
            (one.size, max(1e-3, min(one.latency_s - propagation_s, one.gap_s))) for one in recent
        )

    def excess_s(self, now_s: float, rate: float, propagation_s: float) -> float:
        """Seconds a frame by which the last frames came sooner than a link with these would let
        them; 0 with too few frames to tell."""
        recent = self._recent(now_s)
        if len(recent) < 3:
            return 0.0
        sooner = [
            one.size / rate - min(one.latency_s - propagation_s, one.gap_s) for one in recent[-3:]
        ]
        return min(sooner)

    def tells(self, rate: float, factor: float) -> bool:
        """Whether frames are so long under way that a link so much faster would be noticed."""
        sizes = [one.size for one in list(self._samples)[-RECENT:]]
        sooner_s = (1.0 - 1.0 / factor) / rate
        return bool(sizes) and min(sizes) * sooner_s > 2 * JITTER_S

    def propagation_s(self, now_s: float, rate: float) -> float:
        """``p`` of a link of ``rate`` bytes a second, or more than that."""
        window = self._window(now_s)
        return max(0.0, min((one.latency_s - one.size / rate for one in window), default=0.0))

    def clear_s(self, now_s: float, since_s: float) -> float:
        """Over how many seconds, since then, frames were sent that did not wait."""
        if self._in_flight:
            oldest = next(iter(self._in_flight.values()))
            expected_s = self._unqueued_s(oldest.size, now_s)
            if math.isfinite(expected_s) and now_s - oldest.at_s > 1.5 * expected_s + 0.2:
                return 0.0
        return max(0.0, self._last_sent_s - max(self._queued_s, since_s))

    def may_send(self, now_s: float) -> bool:
        """Whether a further frame would not wait for long."""
        count = len(self._in_flight)
        if count == 0:
            return True
        if now_s - self._dry_s > self._window_s() and self._samples:
            return False  # let it run dry
        if count < min(2, self._most):
            return True
        rate = self.rate(now_s)
        known = rate.bytes_per_second if rate is not None else self._known
        if known is None:
            return count < self._most
        return self._bytes / known - self.propagation_s(now_s, known) <= QUEUE_S

    def may_flood(self, size: int, now_s: float) -> bool:
        """Whether a further message would leave what is under way short enough for the transport's
        keepalive, which is answered behind it."""
        if not self._in_flight:
            return True
        oldest = next(iter(self._in_flight.values()))
        if now_s - max(oldest.at_s, self._last_ack_s) > FLOOD_S:
            return False
        return self._bytes + size <= max(FIRST_BYTES, self.floor(now_s) * FLOOD_S)

    def _unqueued_s(self, size: int, now_s: float) -> float:
        """What a frame takes that need not wait, or more; inf when nothing is known."""
        return min(
            (one.latency_s * max(1.0, size / one.size) for one in self._window(now_s)),
            default=math.inf,
        )

    def _least_s(self, now_s: float) -> float:
        return min((one.latency_s for one in self._window(now_s)), default=math.inf)

    def _window_s(self) -> float:
        if not self._samples:
            return WINDOW_S
        return max(WINDOW_S, WINDOW_LATENCIES * self._samples[-1].latency_s)

    def _window(self, now_s: float) -> list[_Sample]:
        since_s = now_s - self._window_s() - 2.0
        return [one for one in self._samples if one.at_s >= since_s] or list(self._samples)[-1:]

    def _recent(self, now_s: float) -> list[_Sample]:
        """The last few, if they are fresh."""
        recent = list(self._samples)[-RECENT:]
        return [one for one in recent if now_s - one.at_s <= max(FRESH_S, 3 * one.service_s)]


def _ratio(samples: Iterable[tuple[int, float]]) -> float:
    """Bytes a second."""
    size, seconds = 0, 0.0
    for one_size, one_s in samples:
        size, seconds = size + one_size, seconds + one_s
    return size / seconds if seconds > 0 else 0.0
