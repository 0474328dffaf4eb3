"""Regions of interest: parts of a picture that are told to a finer state than the rest.

A stream's layers are of the whole picture, and decoders know no regions. So where nothing finer is
wanted the encoder chooses, split by split and in the stream's order, the child of least

    |z - c|**2 + lambda * bits

with a lambda so large that a split there is taken for what it costs, and for its error only where
that comes for next to nothing. The positions of a region take the leaves that they always take.
Down to the state of the rest the layers are those of a picture without regions, byte for byte.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from codec.markov_palette.palette import Features, Indices, MarkovPalette, Pass
from codec.markov_palette.tree import FloatArray, PaletteTree
from codec.rate import FINEST, RateTarget
from shared.errors import BudgetError

MAX_REGIONS: Final = 16

OUTSIDE_WEIGHT: Final = 10.0
"""Outside a region one bit is worth so many times the error that it was worth at the first split
when the palette was made. Measured (docs/howto/regions.md): less costs bits, more costs error alone."""

States = npt.NDArray[np.uint8]
"""The finest state that each position of a grid is told to."""


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle in shares of the picture's sides, and the state to which it is told.

    Raises BudgetError ``bad_region`` unless 0 <= min < max <= 1 on both sides, and the state is
    0 to 255.
    """

    x_min: float
    y_min: float
    x_max: float
    y_max: float
    state: int = 0

    def __post_init__(self) -> None:
        if not (
            0 <= self.x_min < self.x_max <= 1
            and 0 <= self.y_min < self.y_max <= 1
            and 0 <= self.state <= 255
        ):
            raise BudgetError(
                "bad_region", f"a region lies within 0 to 1 of both sides, and is not empty: {self}"
            )


Regions = tuple[Region, ...]


def parse_region(text: str) -> Region:
    """``X,Y,W,H`` or ``X,Y,W,H:STATE``: left, top, width and height in shares of the sides.

    Raises BudgetError ``bad_region``.
    """
    place, colon, state = text.partition(":")
    try:
        x, y, width, height = (float(number) for number in place.split(","))
        told = int(state) if colon else 0
    except ValueError:
        raise BudgetError(
            "bad_region", f"a region is X,Y,WIDTH,HEIGHT[:STATE] in shares of the sides, not {text}"
        ) from None
    # 0.1 + 0.9 may be a little more than 1.
    return Region(x, y, round(x + width, 9), round(y + height, 9), told)


def check_regions(
    regions: Sequence[Region], target: RateTarget = FINEST, rate_weight: float | None = None
) -> Regions:
    """Regions as a tuple.

    Raises BudgetError ``bad_region`` when there are too many, and ``bad_target`` where there are
    some and the rate is a PSNR or has a lambda.
    """
    if len(regions) > MAX_REGIONS:
        raise BudgetError("bad_region", f"{len(regions)} regions; there may be {MAX_REGIONS}")
    if regions and (target.psnr_db is not None or rate_weight):
        raise BudgetError(
            "bad_target", "regions go with a state, bits per pixel or bytes, without lambda"
        )
    return tuple(regions)


def grid_of_states(
    regions: Regions, rest: int, width: int, height: int, rows: int, columns: int, stride: int
) -> States:
    """uint8 [rows, columns]: the state of every position, ``rest`` where no region is finer.

    width, height: of the picture in pixels. stride: pixels between positions. A region takes every
    position whose pixels it touches.
    """
    states = np.full((rows, columns), min(rest, 255), np.uint8)
    for region in regions:
        top, bottom = _span(region.y_min, region.y_max, height, stride)
        left, right = _span(region.x_min, region.x_max, width, stride)
        part = states[top:bottom, left:right]
        np.minimum(part, region.state, out=part)
    return states


class RegionAssignment:
    """Decides the bits of one picture's passes, in the stream's order."""

    def __init__(
        self,
        palette: MarkovPalette,
        features: Features,
        states: dict[str, States],
        *,
        nearest: bool = False,
    ) -> None:
        """features: float32 [C, h, w] a scale. states: of each scale's positions. nearest: take
        nearest leaves inside, instead of those that the palette was made for."""
        self._palette, self._features, self._states = palette, features, states
        self._nearest = nearest
        self._remaining: dict[str, FloatArray] = {}
        self._planes: dict[str, _Plane] = {}

    def bits(
        self,
        state: int,
        step: Pass,
        positions: npt.NDArray[np.int64],
        odds: npt.NDArray[np.uint16],
    ) -> npt.NDArray[np.uint8]:
        """The bits of a pass of the layer of ``state``; odds: P(1) * 2**16 of each position."""
        if step.plane not in self._planes:
            self._planes[step.plane] = self._begin(step.plane)
        return self._planes[step.plane].bits(state, step.depth, positions, odds)

    def _begin(self, name: str) -> _Plane:
        """A plane begins when its first pass comes: what predicts it has been decided then."""
        palette, features = self._palette, self._features
        plane = next(plane for plane in palette.planes if plane.name == name)
        if plane.scale not in self._remaining:
            decided: Indices = {
                other: made.nodes.reshape(made.states.shape) for other, made in self._planes.items()
            }
            self._remaining[plane.scale] = palette.residual(features, plane.scale, decided)
        tree, vectors = palette.trees[name], palette.vectors(self._remaining, plane)
        leaves = tree.nearest_leaf(vectors) if self._nearest else tree.leaf(vectors)
        return _Plane(tree, vectors, leaves, self._states[plane.scale])


class _Plane:
    def __init__(
        self, tree: PaletteTree, vectors: FloatArray, leaves: npt.NDArray[np.int32], states: States
    ) -> None:
        self._tree, self._vectors, self._leaves = tree, vectors, leaves
        self.states = states
        self._flat = states.reshape(-1)
        self._weight = np.float32(OUTSIDE_WEIGHT * max(tree.rate_weights, default=math.inf))
        self.nodes = np.zeros(len(vectors), np.int32)

    def bits(
        self,
        state: int,
        depth: int,
        positions: npt.NDArray[np.int64],
        odds: npt.NDArray[np.uint16],
    ) -> npt.NDArray[np.uint8]:
        below = self._tree.depth - depth - 1
        bits = ((self._leaves[positions] >> below) & 1).astype(np.uint8)
        outside = np.flatnonzero(self._flat[positions] > state)
        if len(outside):
            bits[outside] = self._cheap(depth, positions[outside], odds[outside])
        self.nodes[positions] = 2 * self.nodes[positions] + bits
        return bits

    def _cheap(
        self, depth: int, positions: npt.NDArray[np.int64], odds: npt.NDArray[np.uint16]
    ) -> npt.NDArray[np.uint8]:
        if not np.isfinite(self._weight):  # a palette that was made without odds says no price
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


def _span(low: float, high: float, pixels: int, stride: int) -> tuple[int, int]:
    first = int(low * pixels) // stride
    return first, max(first + 1, -(-math.ceil(high * pixels) // stride))
