"""The contract of a source of pictures, and a picture that it has taken."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.limits import CLOCK_SET_S

Pixels = NDArray[np.uint8]

CLOCK_TRUST_S = 60.0
"""A camera's clock that is further from ours than this is not set."""


FIRST_PHOTO_S = 631_152_000
"""1990: no digital camera that writes dates is older."""
_AHEAD_S = 26 * 3600
"""By so much a time may be ahead: a zone that was left out, and a clock that is a little fast."""


def plausible_time(seconds: float) -> bool:
    """Whether a picture can have been taken then (seconds since 1970), by this machine's clock.

    While that has not been set yet, any time is until 2100.
    """
    now = time.time()
    latest = now + _AHEAD_S if now >= CLOCK_SET_S else 4_102_444_800
    return FIRST_PHOTO_S <= seconds <= latest


def time_of(path: Path, recorded: float | None) -> float:
    """When what is in a file was taken, in seconds since 1970: as the file itself says, else when
    it was written, else now; what cannot be true is passed over."""
    if recorded is not None and plausible_time(recorded):
        return recorded
    with suppress(OSError):
        written = path.stat().st_mtime
        if plausible_time(written):
            return written
    return time.time()


@dataclass(frozen=True, slots=True)
class Capture:
    """A picture that was taken, and perhaps not decoded yet.

    name: says which it is, without a password. captured_at: seconds since 1970, as well as they
    are known. load: its pixels, uint8 HxWx3 RGB, or the path of a .fwf file; raises PhotoError.
    file: that it came from, if it may be moved away once it is sent.
    """

    name: str
    captured_at: float
    load: Callable[[], Pixels | Path]
    file: Path | None = None


class Source(Protocol):
    """A source of pictures. ``captures`` may be called again after it ended or failed: it opens
    anew."""

    @property
    def name(self) -> str:
        """The source's name for people, without a password."""

    @property
    def live(self) -> bool:
        """Whether it goes on by itself, so that of pictures that come too fast the newest wins.
        Otherwise it waits."""

    @property
    def stills(self) -> bool:
        """Whether its pictures stand for themselves: so many a second is then a pause between
        them, and of no use for leaving some out."""

    @property
    def polled(self) -> bool:
        """Whether it takes a picture each time it is asked, so that as many a second are asked
        for as are wanted. It may be found out with the first picture."""

    @property
    def lasting(self) -> bool:
        """Whether an end is a failure, after which it is opened again."""

    @property
    def damaged(self) -> int:
        """Pieces that could not be read, and were passed over."""

    def captures(self, stop: threading.Event) -> Iterator[Capture]:
        """Pictures until the source ends, or soon after ``stop`` is set. Raises SourceError;
        after the reasons in ``PERMANENT`` it is no use to try again."""


PERMANENT = frozenset(
    {
        "bad_source",
        "forbidden",
        "internal_error",
        "missing_extra",
        "no_video",
        "not_found",
        "too_large",
        "too_small",
        "unknown_scheme",
        "unreadable",
    }
)
"""Reasons of errors whose cause somebody must remove before it is worth trying again: of a source
that has given no picture yet. One that has was right, and a camera that starts, or that is being
updated, answers with anything at all."""


class Waiting:
    """How long a stream has sent bytes and no picture."""

    def __init__(self, limit_s: float, *, first: float = 1.0) -> None:
        """first: how many times as long the first picture may take."""
        self._limit_s = limit_s
        self._now_s = limit_s * first
        self._began_s = time.monotonic()

    @property
    def since_s(self) -> float:
        """Seconds since the last picture, or since the beginning."""
        return time.monotonic() - self._began_s

    def over(self) -> None:
        """Note a picture."""
        self._now_s = self._limit_s
        self._began_s = time.monotonic()

    def too_long(self) -> bool:
        """Whether it is time to give up."""
        return self.since_s > self._now_s
