"""Pauses before connecting again."""

from __future__ import annotations

import random


class Backoff:
    """Delays that double up to a limit, each shortened by chance, so that a thousand devices that
    lost one server do not come back in one moment."""

    def __init__(
        self, first_s: float = 0.25, limit_s: float = 30.0, rng: random.Random | None = None
    ) -> None:
        """Delays lie between half of what is doubled and all of it, in seconds."""
        self._first_s = first_s
        self._limit_s = limit_s
        self._rng = rng or random.Random()
        self._failures = 0

    def next_s(self) -> float:
        """Seconds to wait after one more failure."""
        # The exponent is bounded: 2.0 ** 2000 is no float.
        full_s = min(self._limit_s, self._first_s * 2.0 ** min(self._failures, 32))
        self._failures += 1
        return full_s * self._rng.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Note a success: the next failure counts as the first."""
        self._failures = 0
