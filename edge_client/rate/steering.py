"""The state that fits a budget and a network, without hunting.

States are counted here from the coarsest, 0, to the finest. The budget bounds the state from above.
Below that:

- down at once, when the state needs more than the link's rate;
- up at once, as far as what the link has shown to take is enough, with a margin;
- up by one, when no frame waited for a while: nobody knows how much more the network takes. When
  that turns out too much, the next try waits twice as long.

What was too much, and the state below it, are latched as a pair, with the link's rate and its
propagation delay then. No third state is used, and the frame rate gives way instead, until frames
come at another rate: by a fifth slower, or sooner than that link would let them. So at constant
bandwidth it settles on two states at most, however the sizes of pictures vary.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from edge_client.rate.link import JITTER_S, LinkModel, LinkRate

TOO_MUCH = 0.97
SAFE_SHARE = 0.9
DOWN_SHARE = 0.85
UP_SHARE = 0.8
SETTLE_S = 1.0
HOLD_S = 2.0
MAX_HOLD_S = 64.0
CHANGED = 1.2
HINT_S = 10.0
UNHINTED_S = 12.0
LEAP = 2.5

Load = Callable[[int], float]
"""Bytes a second that a state needs; rises with the state."""


@dataclass(slots=True)
class _Latch:
    """Two neighbouring states, and the link between whose they are."""

    low: int
    rate: float
    propagation_s: float

    @property
    def high(self) -> int:
        return self.low + 1


class Steering:
    """Chooses the state of each frame, and changes it only when that is likely to last."""

    def __init__(self, states: int) -> None:
        """states: how many there are."""
        self._states = states
        self._index: int | None = None
        self._entered_s = -math.inf
        self._hold_s = HOLD_S
        self._latch: _Latch | None = None
        # After the latch was opened: the propagation delay that it had.
        self._hint_s: float | None = None
        self._hint_until_s = -math.inf

    def choose(self, now_s: float, load: Load, budget: float, link: LinkModel) -> int:
        """The state for the next frame. budget: bytes a second."""
        ceiling = self._within(load, budget)
        if self._index is None:
            self._index, self._entered_s = ceiling, now_s
        elif self._index > ceiling:
            self._move(ceiling, now_s)
        rate = link.rate(now_s)
        self._check_latch(now_s, rate, link)
        proved = self._proved(now_s, load(self._index), rate, link)
        if rate is not None and load(self._index) > rate.bytes_per_second * TOO_MUCH:
            self._down(now_s, load, rate, link)
        elif now_s - self._entered_s >= SETTLE_S:
            self._up(now_s, load, ceiling, proved, rate, link)
        return self._index

    def _within(self, load: Load, budget: float) -> int:
        """The finest state within the budget; a margin keeps it from going to and fro."""
        here = self._index
        finest = 0
        for index in range(self._states):
            share = SAFE_SHARE if here is None or index > here else 1.0
            if load(index) <= budget * share:
                finest = index
        return finest

    def _proved(self, now_s: float, here: float, rate: LinkRate | None, link: LinkModel) -> float:
        """What the link takes; ``here``: what the state needs."""
        if rate is not None and rate.exact:
            return rate.bytes_per_second
        proved = link.floor(now_s)
        if self._hint_s is not None and now_s < self._hint_until_s:
            # Perhaps it is the propagation that has changed: not all at once.
            proved = max(proved, min(link.floor(now_s, self._hint_s), LEAP * here))
        return proved

    def _check_latch(self, now_s: float, rate: LinkRate | None, link: LinkModel) -> None:
        """Open the latch when the link is another one."""
        latch = self._latch
        if latch is None:
            return
        if rate is not None:
            known = rate.bytes_per_second
            if known < latch.rate / CHANGED or (rate.exact and known > latch.rate * CHANGED):
                self._open()
            return
        faster = latch.rate * CHANGED
        if (
            link.floor(now_s, latch.propagation_s) > faster
            and link.excess_s(now_s, faster, latch.propagation_s) > JITTER_S
        ):
            self._open()
            self._hint_s, self._hint_until_s = latch.propagation_s, now_s + HINT_S

    def _open(self) -> None:
        self._latch = None
        self._hold_s = HOLD_S

    def _down(self, now_s: float, load: Load, rate: LinkRate, link: LinkModel) -> None:
        assert self._index is not None
        known = rate.bytes_per_second
        target = self._finest(load, known * DOWN_SHARE, self._index - 1)
        if self._index > 0 and load(self._index - 1) <= known * TOO_MUCH:
            target = self._index - 1
        if self._latch is not None:
            target = max(target, self._latch.low)
            if target < self._index:
                self._hold_s = min(MAX_HOLD_S, self._hold_s * 2)
        elif rate.exact and target < self._index:
            self._latch = _Latch(target, known, link.propagation_s(now_s, known))
            self._hold_s = HOLD_S
            self._hint_s = None
        if target < self._index:
            self._move(target, now_s)

    def _up(
        self,
        now_s: float,
        load: Load,
        ceiling: int,
        proved: float,
        rate: LinkRate | None,
        link: LinkModel,
    ) -> None:
        assert self._index is not None
        top = ceiling if self._latch is None else min(ceiling, self._latch.high)
        if self._index >= top:
            return
        target = self._finest(load, proved * UP_SHARE, top)
        if target > self._index:
            self._move(target, now_s)
        elif (
            rate is None
            and link.clear_s(now_s, self._entered_s) >= self._hold_s
            and self._may_fit(now_s, load, link)
        ):
            self._move(self._index + 1, now_s)

    def _may_fit(self, now_s: float, load: Load, link: LinkModel) -> bool:
        """Whether the next state may fit though nothing shows it."""
        assert self._index is not None
        latch = self._latch
        if latch is None and self._hint_s is not None:
            share = 1.0 if now_s < self._hint_until_s else CHANGED
            fits = load(self._index + 1) <= share * link.floor(now_s, self._hint_s)
            return fits or link.clear_s(now_s, self._entered_s) >= UNHINTED_S
        if latch is None or load(self._index + 1) <= latch.rate * CHANGED:
            return True
        return load(self._index) <= latch.rate and not link.tells(latch.rate, CHANGED)

    @staticmethod
    def _finest(load: Load, most: float, top: int) -> int:
        """The finest state up to ``top`` that needs no more than ``most``; 0 when none does."""
        return max((index for index in range(top + 1) if load(index) <= most), default=0)

    def _move(self, index: int, now_s: float) -> None:
        self._index, self._entered_s = index, now_s
