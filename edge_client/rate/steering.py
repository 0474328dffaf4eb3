"""The state that fits a budget and a network, without hunting.

States are counted here from the coarsest, 0, to the finest. The budget bounds the state from above.
Below that, where the network's rate is measured, the state goes down as soon as it is too much for
it, and up when the next one fits with a margin. Where it is not (nothing waits, so the network can
take more, and nobody knows how much), the next finer state is tried; when that turns out too much,
the next try waits twice as long.

Two neighbouring states between which it went are latched: with the same measured rate, within a
quarter, no third one is taken, and the frame rate gives way instead. So at constant bandwidth at
most two states are used. A rate that is measured and differs, or a finer state that holds for long,
opens the latch.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from edge_client.rate.goodput import LinkRate

SAFE_SHARE = 0.9
UP_SHARE = 0.8
SETTLE_S = 1.0
HOLD_S = 2.0
MAX_HOLD_S = 8.0
PROVED_S = 6.0
SHOWN_S = 0.6
UNLATCH_S = 12.0
MAX_UNLATCH_S = 60.0
SIMILAR = math.log(1.25)

Load = Callable[[int], float]
"""Bytes a second that a state needs; rises with the state."""


class Steering:
    """``choose`` is asked before each frame."""

    def __init__(self, states: int) -> None:
        """states: how many there are."""
        self._states = states
        self._index: int | None = None
        self.entered_s = -math.inf
        """When the state was taken."""
        self._hold_s = HOLD_S
        self._reference: LinkRate | None = None
        self._pair: tuple[int, int] | None = None
        self._former: tuple[tuple[int, int], LinkRate] | None = None
        self._unlatch_s = UNLATCH_S

    def reset(self) -> None:
        """The budget, the pictures or the wish have changed: begin anew."""
        self._index = None
        self._pair = None
        self._reference = None
        self._hold_s = HOLD_S
        self._former = None
        self._unlatch_s = UNLATCH_S

    def choose(
        self, now_s: float, load: Load, budget: float, rate: LinkRate | None, clear_s: float
    ) -> int:
        """The state for the next frame.

        budget: bytes a second. rate: the network's, None where it is not the bottleneck. clear_s:
        seconds since ``entered_s`` for which it certainly was not.
        """
        ceiling = self._within(load, budget)
        if self._index is None:
            self._index, self.entered_s = ceiling, now_s
        elif self._index > ceiling:
            self._move(ceiling, now_s)
        bounded = self._reference is not None and not self._reference.exact
        if bounded and rate is not None and rate.exact:
            self._reference = rate
        if now_s - self.entered_s < SETTLE_S:
            return self._index
        if rate is not None and load(self._index) > rate.bytes_per_second:
            self._down(now_s, load, rate)
        elif self._index < ceiling:
            self._up(now_s, load, rate, clear_s)
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

    def _down(self, now_s: float, load: Load, rate: LinkRate) -> None:
        assert self._index is not None
        if self._former is not None and rate.exact:
            # The latch was opened: with reason, if the rate is another one now.
            (pair, reference), self._former = self._former, None
            if _alike(rate, reference):
                self._pair, self._reference = pair, reference
                self._unlatch_s = min(MAX_UNLATCH_S, 2 * self._unlatch_s)
            else:
                self._unlatch_s = UNLATCH_S
        if self._similar(rate):
            self._hold_s = min(MAX_HOLD_S, self._hold_s * 2)
        else:
            self._hold_s = HOLD_S
            self._pair = None
        fitting = [
            index
            for index in range(self._index)
            if load(index) <= rate.bytes_per_second * SAFE_SHARE
        ]
        target = max(fitting, default=0)
        if self._pair is not None:
            target = max(target, self._pair[0])
        if target < self._index:
            if rate.exact or self._reference is None or not self._similar(rate):
                self._reference = rate
            self._move(target, now_s)

    def _up(self, now_s: float, load: Load, rate: LinkRate | None, clear_s: float) -> None:
        assert self._index is not None
        held_s = now_s - self.entered_s
        following = self._index + 1
        if rate is not None:
            fits = load(following) <= rate.bytes_per_second * UP_SHARE
            if not rate.exact or not fits or held_s < HOLD_S:
                return
            if not self._similar(rate):
                self._pair, self._reference = None, rate
        elif clear_s < self._hold_s:
            return
        elif self._pair is not None and following > self._pair[1]:
            reference = self._reference.bytes_per_second if self._reference is not None else 0.0
            # In this time a queue would have shown, were the rate still what it was.
            excess = load(self._index) / reference - 1.0 if reference > 0 else math.inf
            proved_s = max(PROVED_S, SHOWN_S / excess) if excess > 0 else math.inf
            if clear_s < min(proved_s, self._unlatch_s):
                return
            self._former = None if self._reference is None else (self._pair, self._reference)
            self._pair, self._reference, self._hold_s = None, None, HOLD_S
        if self._pair is None or following <= self._pair[1]:
            self._move(following, now_s)

    def _similar(self, rate: LinkRate) -> bool:
        """Whether a rate may be that at which the pair was latched."""
        if self._reference is None:
            return False
        difference = math.log(rate.bytes_per_second / self._reference.bytes_per_second)
        if not rate.exact:
            return difference >= -SIMILAR
        return abs(difference) <= SIMILAR or not self._reference.exact

    def _move(self, index: int, now_s: float) -> None:
        assert self._index is not None
        low, high = sorted((index, self._index))
        # While nothing was ever too much there is nothing to latch.
        if self._reference is not None and high - low == 1:
            self._pair = (low, high)
        self._index, self.entered_s = index, now_s


def _alike(first: LinkRate, second: LinkRate) -> bool:
    return abs(math.log(first.bytes_per_second / second.bytes_per_second)) <= SIMILAR
