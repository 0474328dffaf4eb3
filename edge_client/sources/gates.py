"""Which pictures are worth sending: so many a second, and those in which something has moved."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edge_client.sources.base import Pixels

_SLACK = 0.5
"""Of a picture's time: one that comes so much too early still counts, so that a limit of 10 a
second takes every third of 30, and not every fourth."""
POLLS_PER_SECOND = 1.0
LOOK_S = 0.5
"""How long nobody looks whether the limit has changed."""


class RateGate:
    """At most so many pictures a second, by the times at which they were taken."""

    def __init__(self, limit: Callable[[], float | None]) -> None:
        """limit: pictures a second now; None is no limit."""
        self._limit = limit
        self._due_at: float | None = None
        self._last_at: float | None = None
        self._step_s = 0.0
        self._rested_s: float | None = None

    def passes(self, captured_at: float) -> bool:
        """Whether a picture is within the limit."""
        last_at, self._last_at = self._last_at, captured_at
        if last_at is not None and captured_at > last_at:
            self._step_s = captured_at - last_at
        limit = self._limit()
        if limit is None:
            self._due_at = None
            return True
        pause_s = 1.0 / limit
        early_s = min(self._step_s, pause_s) * _SLACK
        due_at = self._due_at
        if due_at is not None and 0 < due_at - captured_at <= 2 * pause_s:
            if due_at - captured_at > early_s:
                return False
            self._due_at = due_at + pause_s
            return True
        # The first one, one after a gap, or the clock has jumped.
        on_time = due_at is not None and 0 <= captured_at - due_at < pause_s
        self._due_at = (due_at if on_time and due_at is not None else captured_at) + pause_s
        return True

    def pause(self, stop: threading.Event, now_s: Callable[[], float]) -> None:
        """Wait until the next still picture is due."""
        limit = self._limit()
        now = now_s()
        if limit is None:
            self._due_at = None
            return
        due_at = now if self._due_at is None else self._due_at
        wait_s = min(max(0.0, due_at - now), 1.0 / limit)
        self._due_at = max(due_at, now) + 1.0 / limit
        stop.wait(wait_s)

    def rest(self, stop: threading.Event) -> None:
        """Wait, after a picture that was asked for, until it is time to ask for the next.

        Without a limit that is ``POLLS_PER_SECOND``. A limit that changes holds at once.
        """
        began_s = time.monotonic() if self._rested_s is None else self._rested_s
        while True:
            now_s = time.monotonic()
            due_s = began_s + 1.0 / (self._limit() or POLLS_PER_SECOND)
            if now_s >= due_s or stop.wait(min(due_s - now_s, LOOK_S)):
                break
        # A picture that took long to come is not made up for.
        self._rested_s = max(due_s, now_s - (due_s - began_s))


class MotionGate:
    """Leaves out pictures that are like the last one that was sent.

    Both are averaged to a small grey grid. A change of light as a whole, such as automatic
    exposure makes, is taken off; what is left must be more than ``levels`` grey levels (of 255) in
    more than ``share`` of the cells. It is the last one *sent* that counts, so that what creeps is
    seen too. After ``longest_s`` without one a picture goes whatever it shows.
    """

    WIDTH, HEIGHT = 64, 48

    def __init__(self, share: float, levels: float = 10.0, longest_s: float = 60.0) -> None:
        """share: 0..1 of the cells. longest_s: seconds; infinity is never."""
        self._share = share
        self._levels = levels
        self._longest_s = longest_s
        self._sent: NDArray[np.float32] | None = None
        self._shape: tuple[int, ...] = ()
        self._sent_at = 0.0

    def passes(self, pixels: Pixels, captured_at: float) -> bool:
        """Whether a picture (uint8 HxWx3) is worth sending; then it is what is compared with."""
        cells = self._cells(pixels)
        still = (
            self._sent is not None
            and pixels.shape == self._shape
            and 0 <= captured_at - self._sent_at < self._longest_s
            and moved_share(self._sent, cells, self._levels) <= self._share
        )
        if still:
            return False
        self._sent, self._shape, self._sent_at = cells, pixels.shape, captured_at
        return True

    def _cells(self, pixels: Pixels) -> NDArray[np.float32]:
        from PIL import Image

        # Green is most of what is bright, and one plane of three is a third of the work.
        grey = Image.fromarray(np.ascontiguousarray(pixels[:, :, 1]))
        small = grey.resize((self.WIDTH, self.HEIGHT), Image.Resampling.BOX)
        return np.asarray(small, dtype=np.float32)


def moved_share(before: NDArray[np.float32], now: NDArray[np.float32], levels: float) -> float:
    """The share of cells (0..1) that differ by more than ``levels``, light as a whole aside."""
    change = now - before
    change -= np.median(change)
    return float(np.count_nonzero(np.abs(change) > levels) / change.size)
