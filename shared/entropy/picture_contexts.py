"""The odds of every split of one picture, from what both ends know so far, in integers only.

Going from depth d to d + 1, every position's node splits in two: one bit a position. Positions
are visited in two checkerboard passes; inside a pass they are independent of one another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from shared.entropy.contexts import SCORE_UNIT
from shared.entropy.tables import PASSES, ContextTables
from shared.errors import BundleError
from shared.palette.chain import MarkovPalette, PlaneSpec
from shared.palette.tree import IndexArray, PaletteTree

_NEAREST_WEIGHT = 2
_DIAGONAL_WEIGHT = 1


class ContextModel:
    """What a bundle's contexts.npz says. Holds no per-picture state."""

    def __init__(self, palette: MarkovPalette, tables: Mapping[str, ContextTables]) -> None:
        """Raises BundleError ``bad_contexts`` when tables do not fit the palette."""
        for plane in palette.planes:
            nodes = tables[plane.name].probabilities.shape[1]
            if nodes != 2**plane.depth - 1:
                raise BundleError("bad_contexts", f"plane {plane.name}: {nodes} context nodes")
        self._palette = palette
        self._tables = dict(tables)

    @classmethod
    def from_arrays(
        cls,
        planes: Sequence[PlaneSpec],
        palette: MarkovPalette,
        arrays: Mapping[str, npt.NDArray[np.generic]],
    ) -> ContextModel:
        """Read contexts.npz's arrays. Raises BundleError ``bad_contexts``."""
        return cls(palette, {p.name: ContextTables.from_arrays(p.name, arrays) for p in planes})

    def open(self, shapes: Mapping[str, tuple[int, ...]]) -> PictureContexts:
        """Begin a picture: every position of every plane at the root; (height, width) a plane."""
        return PictureContexts(self._palette, self._tables, shapes)


class PictureContexts:
    """The known nodes of all planes of one picture, and the odds of the next bits.

    The order of calls is that of the stream: for a plane and depth, ``probabilities`` then
    ``advance`` of side 0, then of side 1. Anything else is a ValueError.
    """

    def __init__(
        self,
        palette: MarkovPalette,
        tables: Mapping[str, ContextTables],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        """Use :meth:`ContextModel.open`."""
        self._planes = {
            name: _PlaneState(palette.trees[name], tables[name], *shape)
            for name, shape in shapes.items()
        }

    def positions(self, plane: str, side: int) -> npt.NDArray[np.int64]:
        """Flat positions (row * width + column) of a checkerboard pass: int64 [n], ascending.

        side: 0 where row + column is even, 1 where it is odd; may be empty.
        """
        return self._planes[plane].positions[side]

    def probabilities(self, plane: str, depth: int, side: int) -> npt.NDArray[np.uint16]:
        """P(bit = 1) * 2**16 for the positions of a pass, at least 1: uint16 [n].

        Uses everything advanced so far and nothing else.
        """
        return self._planes[plane].probabilities(depth, side)

    def advance(self, plane: str, depth: int, side: int, bits: npt.NDArray[np.uint8]) -> None:
        """Split the nodes of a pass: node -> 2 node + bit. bits: uint8 [n], 0 or 1."""
        self._planes[plane].advance(depth, side, bits)

    def indices(self, plane: str) -> IndexArray:
        """A copy of the node at each position, at the depth that :meth:`depths` says: [h, w]."""
        state = self._planes[plane]
        return state.nodes.reshape(state.shape).copy()

    def depths(self, plane: str) -> npt.NDArray[np.uint8]:
        """Depth of the node at each position: uint8 [h, w]; one apart inside a split."""
        state = self._planes[plane]
        out = np.empty(state.nodes.shape, np.uint8)
        for side in range(PASSES):
            out[state.positions[side]] = state.known[side]
        return out.reshape(state.shape)


class _PlaneState:
    def __init__(self, tree: PaletteTree, tables: ContextTables, height: int, width: int) -> None:
        self.shape = (height, width)
        self.nodes = np.zeros(height * width, np.int32)
        self.known = [0] * PASSES
        self._tree = tree
        self._tables = tables
        self._thresholds = tables.thresholds.astype(np.int64)
        self._flat = tables.probabilities.reshape(-1)
        self._stride = width + 2
        rows, columns = np.divmod(np.arange(height * width, dtype=np.int64), width)
        parity = (rows + columns) & 1
        self.positions = [np.flatnonzero(parity == side) for side in range(PASSES)]
        padded = (rows + 1) * self._stride + columns + 1
        self._padded = [padded[positions] for positions in self.positions]
        self._inside = np.zeros((height + 2) * self._stride, np.int64)
        self._inside[padded] = 1
        self._colours = np.zeros((len(self._inside), tree.channels), np.int32)
        self._colours[padded] = tree.integer_colours(0)[0]

    def probabilities(self, depth: int, side: int) -> npt.NDArray[np.uint16]:
        self._check(depth, side)
        children = self._tree.integer_colours(depth + 1).astype(np.int64)
        first, second = children[0::2], children[1::2]
        normal, middle = second - first, first + second
        length = np.maximum(np.square(normal).sum(1), 1)
        here = self.nodes[self.positions[side]]
        total, weight = self._neighbourhood(self._padded[side])
        offset = 2 * total - weight[:, None] * middle[here]
        score = SCORE_UNIT * np.einsum("nc,nc->n", offset, normal[here])
        score //= np.maximum(weight * length[here], 1)
        bins = np.searchsorted(self._thresholds, score, side="right")
        row = side * (2**self._tree.depth - 1) + 2**depth - 1 + here.astype(np.int64)
        return self._flat[row * self._tables.bins + bins]

    def advance(self, depth: int, side: int, bits: npt.NDArray[np.uint8]) -> None:
        self._check(depth, side)
        positions = self.positions[side]
        if bits.shape != positions.shape or np.any(bits > 1):
            raise ValueError(f"a pass of {len(positions)} positions takes as many bits, 0 or 1")
        self.nodes[positions] = 2 * self.nodes[positions] + bits
        colours = self._tree.integer_colours(depth + 1)
        self._colours[self._padded[side]] = colours[self.nodes[positions]]
        self.known[side] = depth + 1

    def _check(self, depth: int, side: int) -> None:
        if side not in (0, 1) or self.known != [depth + side, depth]:
            raise ValueError(f"pass {side} of depth {depth} comes not after depths {self.known}")
        if depth >= self._tree.depth:
            raise ValueError(f"a tree of depth {self._tree.depth} has no split at depth {depth}")

    def _neighbourhood(
        self, padded: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        stride = self._stride
        nearest = (-stride, -1, 1, stride)
        diagonal = (-stride - 1, -stride + 1, stride - 1, stride + 1)
        total = np.zeros((len(padded), self._colours.shape[1]), np.int64)
        weight = np.zeros(len(padded), np.int64)
        for steps, factor in ((nearest, _NEAREST_WEIGHT), (diagonal, _DIAGONAL_WEIGHT)):
            for step in steps:
                total += factor * self._colours[padded + step]
                weight += factor * self._inside[padded + step]
        return total, weight
