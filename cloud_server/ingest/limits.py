"""Bounds of a stream."""

from __future__ import annotations

from dataclasses import dataclass

from shared.bitstream import Bitstream
from shared.wire.deadlines import DEADLINE_PER_MEGAPIXEL_S, frame_deadline


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """Bounds of one stream; times in seconds.

    ``credits`` are for frames that are analysed. A client whose frames are only kept earns more, up
    to ``kept_credits``: those share commits, and need no more than the log.
    """

    credits: int = 8
    kept_credits: int = 256
    max_pixels_in_flight: int = 128 * 2**20
    max_bytes_in_flight: int = 64 * 2**20
    hello_timeout_s: float = 10.0
    frame_deadline_s: float = 30.0
    deadline_per_megapixel_s: float = DEADLINE_PER_MEGAPIXEL_S
    write_timeout_s: float = 30.0

    def deadline_of(self, bitstream: Bitstream) -> float:
        """Seconds for a frame; larger pictures have longer."""
        return frame_deadline(
            self.frame_deadline_s,
            bitstream.width,
            bitstream.height,
            self.deadline_per_megapixel_s,
        )
