"""When the pictures of a video were taken: its time stamps, which jump, wrap, or are missing.

Streams of encoders that were started again, recordings with gaps and parts that were put together
have steps in their time stamps that say nothing about the pictures. FFmpeg's limits hold here too:
a step back is a discontinuity, and so is one forward of more than ten seconds where the container
allows for such (MPEG transport streams, for one), and of more than thirty hours where it has a
table of times.
"""

from __future__ import annotations

import math

from edge_client.sources.base import CLOCK_TRUST_S

DISCONTINUITY_S = 10.0
"""A longer step forward is none of time (FFmpeg: ``-dts_delta_threshold``)."""
ERROR_S = 30 * 3600.0
"""Nor is such a one where time stamps go on without a break (FFmpeg: ``-dts_error_threshold``)."""
BACK_S = 0.1
"""A step back by no more is disorder, and no new beginning."""
JUMP_S = 5.0
"""A picture that comes so much later than the quickest begins a stream's times anew."""
FORGET = 0.001
"""Seconds that the least delay may grow in a second: clocks drift."""
_USUAL_STEP_S = 0.04


class FileClock:
    """Times of a file: seconds since its first picture, which never go back.

    At a discontinuity time goes on by the step that there was before. Long steps that are the
    rule, as of one picture a minute, are times.
    """

    def __init__(self, step_s: float | None = None, *, gaps: bool = False) -> None:
        """step_s: between pictures, as the file has it; None where it does not say. gaps: whether
        long steps forward are times, as in a container with a table of them."""
        self._step_s = _USUAL_STEP_S if step_s is None else step_s
        self._usual_s = DISCONTINUITY_S + 2 * self._step_s
        self._longest_s = ERROR_S if gaps else self._usual_s
        self._stamp_s: float | None = None
        self._at_s: float | None = None
        self._jumped_s: float | None = None

    def at(self, stamp_s: float | None) -> float:
        """Seconds since the first picture. stamp_s: the file's own time of it, if it has one; where
        it has none, as in a bare stream of a codec, it is a step after the one before."""
        stamped = stamp_s is not None and math.isfinite(stamp_s)
        if self._at_s is None:
            step_s, self._at_s = 0.0, 0.0
            self._stamp_s = stamp_s if stamped else None
        elif stamp_s is None or not stamped:
            step_s = self._step_s
            if self._stamp_s is not None:
                self._stamp_s += step_s
        elif self._stamp_s is None:
            step_s, self._stamp_s = self._step_s, stamp_s
        else:
            step_s = self._step(stamp_s - self._stamp_s)
            if step_s:
                self._stamp_s = stamp_s
        self._at_s += step_s
        return self._at_s

    def _step(self, step_s: float) -> float:
        if -BACK_S <= step_s <= 0:
            return 0.0
        if step_s < 0 or step_s > self._longest_s:
            rule = self._jumped_s is not None and abs(step_s - self._jumped_s) < 0.1 * step_s
            self._jumped_s = step_s
            return step_s if rule else self._step_s
        self._jumped_s = None
        if step_s <= self._usual_s:
            self._step_s = step_s
        return step_s


class LiveClock:
    """Times of a live stream: its own time stamps, on our clock.

    Pictures come late by the network's moods and never early, so the least delay that was seen is
    taken for everybody's: what is left of the moods is not in the times.
    """

    def __init__(self) -> None:
        self._offset_s: float | None = None
        self._stamp_s = 0.0
        self._seen_at = 0.0
        self._zero_holds = True

    def at(self, stamp_s: float | None, arrived_at: float, zero_at: float | None = None) -> float:
        """Seconds since 1970 at which a picture was taken.

        stamp_s: the stream's own time of it. arrived_at: when it came. zero_at: the camera's word
        for when the stream's time was 0, used where its clock is set, and until the time stamps
        jump.
        """
        if stamp_s is None or not math.isfinite(stamp_s):
            return arrived_at
        offset_s = arrived_at - stamp_s
        again = False
        if self._offset_s is not None:
            again = stamp_s < self._stamp_s - BACK_S
            step_s, passed_s = stamp_s - self._stamp_s, arrived_at - self._seen_at
            if again or step_s - passed_s > DISCONTINUITY_S:
                self._zero_holds = False
            self._offset_s += FORGET * max(0.0, passed_s)
        if again or self._offset_s is None or not 0 < offset_s - self._offset_s < JUMP_S:
            self._offset_s = offset_s
        self._stamp_s, self._seen_at = stamp_s, arrived_at
        if (
            zero_at is not None
            and self._zero_holds
            and abs(zero_at + stamp_s - arrived_at) < CLOCK_TRUST_S
        ):
            return zero_at + stamp_s
        return stamp_s + self._offset_s
