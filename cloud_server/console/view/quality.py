"""Bytes against quality: what a stored frame takes at each state it can be cut to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cloud_server.console.view import formats
from shared.bitstream import Bitstream


@dataclass(frozen=True, slots=True)
class Rung:
    """One state. size_bytes: of the file; measured: it is what the frame takes, not an estimate."""

    state: int
    size_bytes: float
    bits_per_pixel: float
    measured: bool

    def in_words(self) -> str:
        """``state 3, 1.25 kB, 0.081 bits/pixel``; an estimate says so."""
        about = "" if self.measured else "about "
        return (
            f"state {self.state}, {about}{formats.size(self.size_bytes)}, "
            f"{about}{self.bits_per_pixel:.3f} bits/pixel"
        )


@dataclass(frozen=True, slots=True)
class Ladder:
    """All states of a frame's bundle, 0 (the finest) first; ``present``: the frame as received."""

    rungs: tuple[Rung, ...]
    present: Rung

    @property
    def coarsest(self) -> int:
        """The last state."""
        return len(self.rungs) - 1

    def can_show(self, state: int) -> bool:
        """Whether the stored frame can be cut to it: it has come at least so fine."""
        return self.rungs[state].measured

    def saving(self, state: int) -> str:
        """Of ``state`` against what is received now, in words."""
        if not self.present.size_bytes:
            return ""
        change = self.rungs[state].size_bytes / self.present.size_bytes - 1
        if abs(change) < 0.005:
            return "as now"
        return f"{formats.share(abs(change))} {'fewer' if change < 0 else 'more'} bytes than now"


def ladder(bitstream: Bitstream, typical: Mapping[int, float]) -> Ladder:
    """typical: bits per pixel of the bundle's states; those finer than the frame are estimated.

    Estimates are in proportion to what the frame takes at its finest whole state.
    """
    pixels = bitstream.width * bitstream.height
    sizes = bitstream.cumulative_bytes()
    finest = bitstream.state
    usual = typical.get(finest, 0.0)
    scale = 8 * sizes[finest] / pixels / usual if usual else 1.0
    rungs = []
    for state in range(max((*typical, *sizes)) + 1):
        measured = state in sizes
        bits = 8 * sizes[state] / pixels if measured else scale * typical.get(state, 0.0)
        rungs.append(Rung(state, bits * pixels / 8, bits, measured))
    whole = bitstream.file_bytes
    return Ladder(tuple(rungs), Rung(finest, whole, 8 * whole / pixels, True))
