"""Boxes of positions in a grid, and the fewest of them that cover what is marked.

Boxes are half-open. Who paints a picture anew in part covers with them what has changed, with as
much around it as that reaches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

SNAP: Final = 4
"""Covering boxes begin and end at multiples of so many positions, so that they have few shapes."""

WORTH: Final = 0.85
"""Share of a whole picture's work from which the whole is painted: boxes have some cost of their
own."""


class Box(NamedTuple):
    """Rows ``top`` to ``bottom`` and columns ``left`` to ``right`` of a grid, half-open."""

    top: int
    left: int
    bottom: int
    right: int

    @property
    def cells(self) -> int:
        """How many it has."""
        return (self.bottom - self.top) * (self.right - self.left)

    @property
    def empty(self) -> bool:
        """Whether it has none."""
        return self.bottom <= self.top or self.right <= self.left

    def grown(self, by: int, grid: Box) -> Box:
        """With ``by`` more cells to each side, inside ``grid``."""
        return Box(self.top - by, self.left - by, self.bottom + by, self.right + by) & grid

    def times(self, ratio: int) -> Box:
        """The same place on a grid that is ``ratio`` times finer."""
        return Box(*(ratio * value for value in self))

    def over(self, ratio: int) -> Box:
        """The least box of a ``ratio`` times coarser grid that covers it."""
        return Box(
            self.top // ratio, self.left // ratio, -(-self.bottom // ratio), -(-self.right // ratio)
        )

    def below(self, grid: Box) -> Box:
        """What a transposed convolution (4 taps, stride 2, padding 1) reads to make it.

        Output cell 2 i - 1 + k is made of input cell i by tap k, 0 to 3. grid: of the input.
        """
        return (
            Box(
                (self.top - 1) // 2, (self.left - 1) // 2, self.bottom // 2 + 1, self.right // 2 + 1
            )
            & grid
        )

    def __and__(self, other: Box) -> Box:
        """What both have."""
        return Box(
            max(self.top, other.top),
            max(self.left, other.left),
            min(self.bottom, other.bottom),
            min(self.right, other.right),
        )


def widened(mask: Mask, by: int) -> Mask:
    """The mask, and all positions at most ``by`` from one of it, along rows and columns."""
    found = mask
    for axis in (0, 1):
        count = mask.shape[axis]
        sums = np.concatenate([np.zeros_like(found.take([0], axis), int), found.cumsum(axis)], axis)
        places = np.arange(count)
        upper = sums.take(np.minimum(places + by + 1, count), axis)
        found = upper > sums.take(np.maximum(places - by, 0), axis)
    return found


def rectangles(mask: Mask, cost: Callable[[Box], float]) -> list[Box]:
    """Boxes without overlap that cover the mask, and whose costs together are low.

    What lies around all is cut in two, wherever that saves most, as long as it saves anything.
    """
    rows, columns = mask.shape
    coarse = np.pad(mask, ((0, -rows % SNAP), (0, -columns % SNAP)))
    coarse = coarse.reshape(-(-rows // SNAP), SNAP, -(-columns // SNAP), SNAP).any((1, 3))
    grid = Box(0, 0, rows, columns)

    def whole(part: Box) -> tuple[Box, float] | None:
        box = _around(coarse, part)
        return None if box is None else (box, cost(box.times(SNAP) & grid))

    first = whole(Box(0, 0, *coarse.shape))
    waiting, done = [] if first is None else [first], []
    while waiting:
        box, alone = waiting.pop()
        best, least = None, alone
        for one, other in _cuts(box):
            halves = [found for part in (one, other) if (found := whole(part)) is not None]
            together = sum(price for _, price in halves)
            if together < least:
                best, least = halves, together
        if best is None:
            done.append(box.times(SNAP) & grid)
        else:
            waiting += best
    return sorted(done)


def _around(mask: Mask, part: Box) -> Box | None:
    """The least box that covers what the mask has in ``part``."""
    inside = mask[part.top : part.bottom, part.left : part.right]
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    if not len(rows):
        return None
    return Box(
        part.top + int(rows[0]),
        part.left + int(columns[0]),
        part.top + int(rows[-1]) + 1,
        part.left + int(columns[-1]) + 1,
    )


def _cuts(box: Box) -> list[tuple[Box, Box]]:
    """All ways to cut a box in two."""
    top, left, bottom, right = box
    across = [
        (Box(top, left, row, right), Box(row, left, bottom, right))
        for row in range(top + 1, bottom)
    ]
    return across + [
        (Box(top, left, bottom, column), Box(top, column, bottom, right))
        for column in range(left + 1, right)
    ]
