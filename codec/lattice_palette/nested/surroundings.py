"""What lies around a position: its neighbours' places, and of which class a channel's are.

A network's units are shared by all channels of its plane; its table says of each channel by itself
what a class means, and classes look at that channel alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from codec.exact import NumberArray
from codec.lattice_palette.nested.palette import Integers

Places = npt.NDArray[np.intp]

CROSS: Final = ((0, 0), (-1, 0), (0, -1), (0, 1), (1, 0))
AROUND: Final = ((-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1))
CLASSES: Final = 45
"""Of a channel's surroundings."""
_MOST: Final = 2
"""The last of the levels that sizes are told apart by."""
_COARSE: Final = (1, 3)
"""Sums of sizes around, at the depth before, from which the next level counts."""
_FINE: Final = (1, 2, 4)
"""The same at this depth; there is a level more where none is known yet."""
_MOVED: Final = (1, 20)
"""Differences from the reference's, as networks see them, from which the next level counts."""


def fresh_classes(sizes: Integers, before: Integers, around: Integers | None) -> Places:
    """Of values without a reference: 0 to 44, intp [n, C].

    sizes: absolute values of the depth before [n, C]; before: the sum of those around [n, C].
    around: the sum of absolute values of this depth around [n, C], of those that are known; None
    where none can be.
    """
    coarse = _level(before, _COARSE)
    fine = np.zeros_like(coarse)
    if around is not None:
        fine = 1 + _level(around, _FINE)
    found: Places = np.minimum(sizes, _MOST) + (_MOST + 1) * (coarse + (_MOST + 1) * fine)
    return found


def changed_classes(likely: Integers, moved: NumberArray, changed: Places) -> Places:
    """Of values with a reference, where something changes: 0 to 44, intp [n, C].

    likely: which values are expected [n, C], of those that are left. moved: how far, as networks
    see it, those of the depth before were from the reference's [n, C]. changed: at how many
    neighbours something changes [n], 0 to 8.
    """
    own = np.minimum(np.abs(likely), _MOST)
    far = _level(np.abs(moved), _MOVED)
    found: Places = own + (_MOST + 1) * (far + (_MOST + 1) * (changed // 2)[:, None])
    return found


def _level(values: NumberArray, least: Sequence[int]) -> Places:
    """How many of the bounds values reach: intp of the same shape."""
    found = np.zeros(values.shape, np.intp)
    for bound in least:
        found += values >= bound
    return found


class Grid:
    """Where positions are in a grid with a border of nothing around it.

    shape, cells: rows and columns, and how many positions that is. size: cells with the border.
    phase: uint8 [h, w]. every: the padded cell of each position; positions, padded: of each phase,
    its positions and their cells. around, cross: what is added to a cell for its neighbours.
    """

    def __init__(self, shape: tuple[int, int], order: npt.NDArray[np.uint8]) -> None:
        """shape: rows and columns. order: see
        :class:`~codec.lattice_palette.nested.palette.NestedPalette`."""
        rows, columns = shape
        self.shape, self.cells = shape, rows * columns
        stride = columns + 2
        self.size = (rows + 2) * stride
        row, column = np.divmod(np.arange(self.cells), columns)
        phase = order[row % len(order), column % len(order)]
        self.phase: npt.NDArray[np.uint8] = phase.reshape(shape)
        self.every: Places = (row + 1) * stride + column + 1
        phases = range(int(order.max()) + 1)
        self.positions: list[Places] = [np.flatnonzero(phase == p) for p in phases]
        self.padded: list[Places] = [self.every[positions] for positions in self.positions]
        self._phases = np.full(self.size, 255, np.uint8)
        self._phases[self.every] = phase
        self.around: Places = np.array([r * stride + c for r, c in AROUND])
        self.cross: Places = np.array([r * stride + c for r, c in CROSS])

    @cached_property
    def known(self) -> list[npt.NDArray[np.bool_]]:
        """Cells of earlier phases: bool [size] a phase."""
        return [self._phases < phase for phase in range(len(self.positions))]

    @cached_property
    def told(self) -> list[Places]:
        """Which of :attr:`around` are of earlier phases, for any position: intp [k] a phase."""
        return [
            np.flatnonzero(known[here[:, None] + self.around].any(0))
            for known, here in zip(self.known, self.padded, strict=True)
        ]
