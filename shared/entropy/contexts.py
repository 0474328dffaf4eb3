"""Contexts for the binary splits of one plane, in integers only.

Going from depth d to d + 1, every position's node splits in two: one bit a position. Its context
is the node and a score of the neighbourhood: where the mean of the neighbours' colours lies
between the two candidate colours. With candidates c0, c1, the neighbours' weighted colour sum S
and weight W, the score is

    32 * (2 S - W (c0 + c1)) . (c1 - c0)  //  max(1, W |c1 - c0|**2)

which is -32 when the neighbours' mean projects on c0 and +32 on c1. Positions are visited in two
checkerboard passes: in the second, the four nearest neighbours (weight 2) already have their
finer colours; the diagonal ones (weight 1) never do. Inside a pass all positions are independent.
Our own design; colours are 16-bit integers, so that the score fits 64 bits with room to spare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.entropy.tables import PASSES
from shared.palette.tree import IndexArray, PaletteTree

Exchange = Callable[[npt.NDArray[np.int64], npt.NDArray[np.int64]], npt.NDArray[np.uint8]]
"""Called once a pass with (context number [n], flat position [n]); returns the bits [n].

An encoder looks the bits up and codes them; a decoder reads them; training counts them. A
context number indexes the flattened probability table of the plane.
"""

SCORE_UNIT: Final = 32
_NEAREST_WEIGHT: Final = 2
_DIAGONAL_WEIGHT: Final = 1


class PlaneContexts:
    """Runs the splits of one plane on a grid of positions."""

    def __init__(
        self, tree: PaletteTree, thresholds: npt.NDArray[np.int32], height: int, width: int
    ) -> None:
        """thresholds: ascending cuts of the score. height, width: positions of the grid."""
        self._tree = tree
        self._thresholds = thresholds.astype(np.int64)
        self._shape = (height, width)
        self._stride = width + 2
        rows, columns = np.divmod(np.arange(height * width, dtype=np.int64), width)
        parity = (rows + columns) & 1
        self._positions = [np.flatnonzero(parity == side) for side in range(PASSES)]
        padded = (rows + 1) * self._stride + columns + 1
        self._padded = [padded[positions] for positions in self._positions]
        self._inside = np.zeros((height + 2) * self._stride, np.int64)
        self._inside[padded] = 1

    def split(self, nodes: IndexArray, depth: int, exchange: Exchange) -> IndexArray:
        """Split every position's node: indices int32 [h, w] at ``depth`` -> at ``depth + 1``."""
        tree = self._tree
        children = tree.integer_colours(depth + 1).astype(np.int64)
        first, second = children[0::2], children[1::2]
        normal, middle = second - first, first + second
        length = np.maximum(np.square(normal).sum(1), 1)
        colours = np.zeros((len(self._inside), tree.channels), np.int32)
        flat = nodes.reshape(-1)
        for side in range(PASSES):
            colours[self._padded[side]] = tree.integer_colours(depth)[flat[self._positions[side]]]
        finer = np.empty(flat.shape, np.int32)
        for side, (positions, padded) in enumerate(zip(self._positions, self._padded, strict=True)):
            here = flat[positions]
            total, weight = self._neighbourhood(colours, padded)
            offset = 2 * total - weight[:, None] * middle[here]
            score = SCORE_UNIT * np.einsum("nc,nc->n", offset, normal[here])
            score //= np.maximum(weight * length[here], 1)
            bins = np.searchsorted(self._thresholds, score, side="right")
            node = 2**depth - 1 + here.astype(np.int64)
            row = side * (2**tree.depth - 1) + node
            bits = exchange(row * (len(self._thresholds) + 1) + bins, positions)
            finer[positions] = 2 * here + bits
            colours[padded] = children[finer[positions]]
        return finer.reshape(self._shape)

    def _neighbourhood(
        self, colours: npt.NDArray[np.int32], padded: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Weighted colour sum [n, channels] and weight [n] of the eight neighbours."""
        stride = self._stride
        nearest = (-stride, -1, 1, stride)
        diagonal = (-stride - 1, -stride + 1, stride - 1, stride + 1)
        total = np.zeros((len(padded), colours.shape[1]), np.int64)
        weight = np.zeros(len(padded), np.int64)
        for steps, factor in ((nearest, _NEAREST_WEIGHT), (diagonal, _DIAGONAL_WEIGHT)):
            for step in steps:
                total += factor * colours[padded + step]
                weight += factor * self._inside[padded + step]
        return total, weight
