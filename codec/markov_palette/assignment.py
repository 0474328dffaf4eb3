"""Assignment: which child a position takes at every split, decided by the encoder alone.

Three ways, all in the stream's order, and whatever they choose the stream is one like any other:

- leaves that are known already (:class:`KnownLeaves`);
- leaves chosen by squared error and by what they cost (:class:`RateAwareAssignment`). Chou,
  Lookabaugh and Gray (1989) choose the leaf c that minimises |z - c|**2 + lambda * bits. Here the
  bits of a split depend on neighbours that are not decided yet: at every split the odds are the
  context model's, which are exact, and what lies below each child is estimated by its best leaf
  with the static odds of the training counts:

      J(b) = min over leaves c below child b of (|z - c|**2 + lambda * static bits from b to c)
             + lambda * bits of b in its context

- regions of interest (:class:`RegionAssignment`). A stream's layers are of the whole picture, and
  decoders know no regions. So where nothing finer is wanted the child is the one of least
  |z - c|**2 + lambda * bits, with a lambda so large that a split there is taken for what it costs,
  and for its error only where that comes for next to nothing. The positions of a region take the
  leaves that they always take. Down to the state of the rest the layers are those of a picture
  without regions, byte for byte.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from codec.areas.regions import States
from codec.latents import Features
from codec.markov_palette.palette import (
    FloatArray,
    Indices,
    MarkovPalette,
    PaletteTree,
    Pass,
)
from codec.settings import PlaneSpec

Positions = npt.NDArray[np.int64]
Odds = npt.NDArray[np.uint16]
Bits = npt.NDArray[np.uint8]

CANDIDATES: Final = 4
"""Leaves a position that are kept in view: those of least cost by the static odds."""

OUTSIDE_WEIGHT: Final = 10.0
"""Outside a region one bit is worth so many times the error that it was worth at the first split
when the palette was made. Measured (docs/howto/regions.md): less costs bits, more costs error
alone."""


_ONE: Final = np.float32(1 << 16)
_SEARCH_ROWS: Final = 16384


class Assignment(Protocol):
    """Decides the bits of one picture's passes, which are asked for in the stream's order."""

    def bits(self, state: int, step: Pass, positions: Positions, odds: Odds) -> Bits:
        """The bits of a pass of the layer that leads to ``state``: uint8 [n].

        positions: int64 [n], flat. odds: P(1) * 2**16 of each, uint16 [n].
        """


class KnownLeaves:
    """The leaves are known: an :class:`Assignment`."""

    def __init__(self, palette: MarkovPalette, leaves: Indices) -> None:
        """leaves: indices at the finest state, int32 [h, w] a plane."""
        self._depths = {name: tree.depth for name, tree in palette.trees.items()}
        self._leaves = {name: grid.reshape(-1) for name, grid in leaves.items()}

    def bits(self, state: int, step: Pass, positions: Positions, odds: Odds) -> Bits:
        """See :meth:`Assignment.bits`."""
        below = self._depths[step.plane] - step.depth - 1
        return ((self._leaves[step.plane][positions] >> below) & 1).astype(np.uint8)


class _Plane(Protocol):
    nodes: npt.NDArray[np.int32]
    """What has been decided so far, one a position."""

    def bits(self, state: int, depth: int, positions: Positions, odds: Odds) -> Bits: ...


class _DecidedAssignment(ABC):
    """Decides plane by plane, from features."""

    def __init__(self, palette: MarkovPalette, features: Features) -> None:
        """features: float32 [C, h, w] per scale."""
        self._palette, self._features = palette, features
        self._remaining: dict[str, FloatArray] = {}
        self._planes: dict[str, _Plane] = {}

    def bits(self, state: int, step: Pass, positions: Positions, odds: Odds) -> Bits:
        """See :meth:`Assignment.bits`."""
        if step.plane not in self._planes:
            self._planes[step.plane] = self._begin(step.plane)
        return self._planes[step.plane].bits(state, step.depth, positions, odds)

    def _begin(self, name: str) -> _Plane:
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
        return self._open(plane, palette.trees[name], palette.vectors(self._remaining, plane))

    @abstractmethod
    def _open(self, plane: PlaneSpec, tree: PaletteTree, vectors: FloatArray) -> _Plane:
        """vectors: float32 [n, channels], the plane's at every position."""


class RateAwareAssignment(_DecidedAssignment):
    """Leaves of least squared error + lambda x bits, all over the picture."""

    def __init__(self, palette: MarkovPalette, features: Features, rate_weight: float) -> None:
        """features: float32 [C, h, w] per scale. rate_weight: lambda, squared error per bit."""
        super().__init__(palette, features)
        self._weight = rate_weight

    def _open(self, plane: PlaneSpec, tree: PaletteTree, vectors: FloatArray) -> _Plane:
        return _RatePlane(tree, vectors, self._weight)


class RegionAssignment(_DecidedAssignment):
    """Leaves as ever where a state is wanted, and what is cheapest where it is not."""

    def __init__(
        self,
        palette: MarkovPalette,
        features: Features,
        states: Mapping[str, States],
        *,
        nearest: bool = False,
    ) -> None:
        """features: float32 [C, h, w] a scale. states: of each scale's positions. nearest: take
        nearest leaves inside, instead of those that the palette was made for."""
        super().__init__(palette, features)
        self._states, self._nearest = states, nearest

    def _open(self, plane: PlaneSpec, tree: PaletteTree, vectors: FloatArray) -> _Plane:
        leaves = tree.nearest_leaf(vectors) if self._nearest else tree.leaf(vectors)
        return _RegionPlane(tree, vectors, leaves, self._states[plane.scale])


class _RatePlane:
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

    def bits(self, state: int, depth: int, positions: Positions, odds: Odds) -> Bits:
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


class _RegionPlane:
    def __init__(
        self, tree: PaletteTree, vectors: FloatArray, leaves: npt.NDArray[np.int32], states: States
    ) -> None:
        self._tree, self._vectors, self._leaves = tree, vectors, leaves
        self._states = states.reshape(-1)
        self._weight = np.float32(OUTSIDE_WEIGHT * max(tree.rate_weights, default=math.inf))
        self.nodes = np.zeros(len(vectors), np.int32)

    def bits(self, state: int, depth: int, positions: Positions, odds: Odds) -> Bits:
        below = self._tree.depth - depth - 1
        bits = ((self._leaves[positions] >> below) & 1).astype(np.uint8)
        outside = np.flatnonzero(self._states[positions] > state)
        if len(outside):
            bits[outside] = self._cheap(depth, positions[outside], odds[outside])
        self.nodes[positions] = 2 * self.nodes[positions] + bits
        return bits

    def _cheap(self, depth: int, positions: Positions, odds: Odds) -> Bits:
        if not np.isfinite(self._weight):  # a palette that was made without odds has no price
            return np.asarray(odds > 1 << 15, np.uint8)
        colours = self._tree.colours(depth + 1)
        first = 2 * self.nodes[positions]
        chance = odds.astype(np.float32) / np.float32(1 << 16)
        totals = [
            np.square(self._vectors[positions] - colours[first + bit]).sum(1)
            - self._weight * np.log2(share)
            for bit, share in ((0, 1 - chance), (1, chance))
        ]
        return np.asarray(totals[1] < totals[0], np.uint8)
