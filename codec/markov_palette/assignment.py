"""Entropy-constrained assignment: leaves chosen by squared error and by what they cost to say.

Chou, Lookabaugh and Gray (1989) choose the leaf c that minimises |z - c|**2 + lambda * bits. Here
the bits of a split depend on neighbours that are not decided yet, so decisions are taken in the
stream's order: at every split the odds are the context model's, which are exact, and what lies
below each child is estimated by its best leaf with the static odds of the training counts:

    J(b) = min over leaves c below child b of (|z - c|**2 + lambda * static bits from b to c)
           + lambda * bits of b in its context

Only the encoder does this. Whatever it chooses, the stream is one like any other.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from codec.markov_palette.palette import Features, MarkovPalette, Pass
from codec.markov_palette.tree import FloatArray, PaletteTree

CANDIDATES: Final = 4
"""Leaves a position that are kept in view: those of least cost by the static odds."""

_ONE: Final = np.float32(1 << 16)
_SEARCH_ROWS: Final = 16384


class RateAwareAssignment:
    """Decides the bits of one picture's passes, in the stream's order."""

    def __init__(self, palette: MarkovPalette, features: Features, rate_weight: float) -> None:
        """features: float32 [C, h, w] per scale. rate_weight: lambda, squared error per bit."""
        self._palette, self._features, self._weight = palette, features, rate_weight
        self._remaining: dict[str, FloatArray] = {}
        self._planes: dict[str, _PlaneAssignment] = {}

    def bits(
        self, step: Pass, positions: npt.NDArray[np.int64], odds: npt.NDArray[np.uint16]
    ) -> npt.NDArray[np.uint8]:
        """The bits of a pass at flat ``positions``; odds: P(1) * 2**16 of each."""
        if step.plane not in self._planes:
            self._planes[step.plane] = self._begin(step.plane)
        return self._planes[step.plane].bits(step.depth, positions, odds)

    def _begin(self, name: str) -> _PlaneAssignment:
        """A plane begins when its first pass comes: what predicts it has been decided then."""
        palette, features = self._palette, self._features
        plane = next(plane for plane in palette.planes if plane.name == name)
        if plane.scale not in self._remaining:
            decided = {
                other.name: self._planes[other.name].nodes.reshape(features[other.scale].shape[1:])
                for other in palette.planes
                if other.name in self._planes
            }
            self._remaining[plane.scale] = palette.residual(features, plane.scale, decided)
        vectors = palette.vectors(self._remaining, plane)
        return _PlaneAssignment(palette.trees[name], vectors, self._weight)


class _PlaneAssignment:
    def __init__(
        self, tree: PaletteTree, vectors: npt.NDArray[np.float32], rate_weight: float
    ) -> None:
        self._depth = tree.depth
        self._weight = np.float32(rate_weight)
        self._static = [self._weight * bits for bits in tree.static_bits()]
        self.nodes = np.zeros(len(vectors), np.int32)
        kept = min(CANDIDATES, 2**tree.depth)
        self._leaves = np.empty((len(vectors), kept), np.int32)
        self._costs = np.empty((len(vectors), kept), np.float32)
        colours = tree.colours(tree.depth)
        # |z - c|**2 without |z|**2, which is the same for all leaves.
        offsets = np.square(colours).sum(1) + self._static[-1]
        for start in range(0, len(vectors), _SEARCH_ROWS):
            rows = slice(start, start + _SEARCH_ROWS)
            costs = offsets - np.float32(2) * (vectors[rows] @ colours.T)
            leaves = np.argpartition(costs, kept - 1, axis=1)[:, :kept]
            self._leaves[rows] = leaves
            self._costs[rows] = np.take_along_axis(costs, leaves, axis=1)

    def bits(
        self, depth: int, positions: npt.NDArray[np.int64], odds: npt.NDArray[np.uint16]
    ) -> npt.NDArray[np.uint8]:
        first = 2 * self.nodes[positions]
        children = self._leaves[positions] >> (self._depth - depth - 1)
        costs = self._costs[positions]
        chance = odds.astype(np.float32) / _ONE
        totals = []
        for bit, probability in ((0, 1 - chance), (1, chance)):
            below = np.where(children == (first + bit)[:, None], costs, np.float32(np.inf)).min(1)
            static = self._static[depth + 1][first + bit]
            totals.append(below - static - self._weight * np.log2(probability))
        bits = np.asarray(totals[1] < totals[0], np.uint8)
        self.nodes[positions] = first + bits
        return bits
