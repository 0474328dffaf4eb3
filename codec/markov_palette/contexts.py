"""The odds of every split of one picture, from what both ends know so far.

Going from depth d to d + 1, every position's node splits in two: one bit a position. Positions
are visited in two checkerboard passes; inside a pass they are independent of one another.
:mod:`codec.markov_palette.context_network` says what is computed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from codec.exact import UNIT, NumberArray, activated, shifted
from codec.markov_palette.context_network import (
    COARSE_STEPS,
    MATE_STEPS,
    NEAREST,
    ODDS_LIMIT,
    OWN_STEPS,
    PASSES,
    PLACE_INPUTS,
    PlaneNetwork,
    input_colours,
    padded_channels,
)
from codec.markov_palette.palette import IndexArray, MarkovPalette, PaletteTree
from codec.settings import PlaneSpec
from shared.errors import BundleError

_ODDS_NAME = "odds.probabilities"
_BLOCK = 4096
Probabilities = npt.NDArray[np.uint16]


class ContextModel:
    """The contexts of a bundle (contexts.npz). Holds no per-picture state."""

    def __init__(
        self,
        palette: MarkovPalette,
        networks: Mapping[str, PlaneNetwork],
        probabilities: Probabilities,
    ) -> None:
        """probabilities: uint16 [513], P(bit = 1) * 2**16 of log odds -256 / 32 to 256 / 32.

        Raises BundleError ``bad_contexts`` when the parts do not fit the palette.
        """
        if (
            probabilities.dtype != np.uint16
            or probabilities.shape != (2 * ODDS_LIMIT + 1,)
            or probabilities.min(initial=1) < 1
        ):
            raise BundleError(
                "bad_contexts", f"{_ODDS_NAME} must be uint16 [{2 * ODDS_LIMIT + 1}], at least 1"
            )
        self.palette = palette
        self.networks = {plane.name: networks[plane.name] for plane in palette.planes}
        self.probabilities = probabilities
        self.mates, self.coarser = relations(palette.planes)
        for plane in palette.planes:
            self._check(plane)
        self._fast = self._prepare(np.float32)

    @classmethod
    def from_arrays(
        cls,
        planes: Sequence[PlaneSpec],
        palette: MarkovPalette,
        arrays: Mapping[str, npt.NDArray[np.generic]],
    ) -> ContextModel:
        """Read contexts.npz's arrays. Raises BundleError ``old_contexts``, ``bad_contexts``."""
        if any(f"{plane.name}.thresholds" in arrays for plane in planes):
            raise BundleError(
                "old_contexts",
                "this bundle's contexts are tables of an earlier version, which is read no more; "
                "get a newer bundle, or make it again: featherwire-train tables, then export",
            )
        networks = {plane.name: PlaneNetwork.from_arrays(plane.name, arrays) for plane in planes}
        if _ODDS_NAME not in arrays:
            raise BundleError("bad_contexts", f"contexts.npz lacks {_ODDS_NAME}")
        return cls(palette, networks, arrays[_ODDS_NAME])  # type: ignore[arg-type]  # checked

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Everything contexts.npz holds."""
        arrays: dict[str, npt.NDArray[np.generic]] = {_ODDS_NAME: self.probabilities}
        for name, network in self.networks.items():
            arrays |= network.to_arrays(name)
        return arrays

    def open(
        self, shapes: Mapping[str, tuple[int, ...]], dtype: type[np.generic] = np.float32
    ) -> PictureContexts:
        """Begin a picture: every position of every plane at the root.

        shapes: (height, width) of each plane's grid. dtype: float32, float64 or int64, which
        give the same odds; float32 is fast. Raises ValueError when grids do not fit each other.
        """
        return PictureContexts(self, shapes, dtype)

    def prepared(self, dtype: type[np.generic] = np.float32) -> dict[str, PreparedNetwork]:
        """Every plane's network in the type of number that it is evaluated in."""
        return self._fast if dtype is np.float32 else self._prepare(dtype)

    def macs_per_pixel(self, strides: Mapping[str, int]) -> float:
        """Multiply-adds for all splits of a picture, a pixel; strides: pixels, by scale."""
        total, known = 0.0, known_depths(self.palette)
        for plane in self.palette.planes:
            network, stride = self.networks[plane.name], strides[plane.scale]
            before = [depths for (name, _), depths in known.items() if name == plane.name]
            total += len(before) * network.split_macs() / stride**2
            if network.trunk is not None:
                # It runs again whenever the coarser planes have become finer.
                seen = {tuple(row[name] for name in self.coarser[plane.name]) for row in before}
                total += len(seen) * network.trunk_macs() / (stride * network.ratio()) ** 2
        return total

    def _prepare(self, dtype: type[np.generic]) -> dict[str, PreparedNetwork]:
        return {
            name: PreparedNetwork(network, self.palette.trees[name], dtype)
            for name, network in self.networks.items()
        }

    def _check(self, plane: PlaneSpec) -> None:
        network, name = self.networks[plane.name], plane.name
        columns = {p.name: padded_channels(p.channels) for p in self.palette.planes}
        mates = len(MATE_STEPS) * sum(columns[mate] for mate in self.mates[name])
        coarser = len(COARSE_STEPS) * sum(columns[other] for other in self.coarser[name])
        fits = (
            network.depth == plane.depth
            and network.own.shape[1] == len(OWN_STEPS) * columns[name]
            and network.mates.shape[1] in (0, mates)
            and (network.trunk is None or network.trunk.weights.shape[0] == coarser > 0)
        )
        if not fits:
            raise BundleError("bad_contexts", f"the network of plane {name} fits another palette")


class PictureContexts:
    """The known nodes of all planes of one picture, and the odds of the next bits.

    The order of calls is that of the stream: for a plane and depth, ``probabilities`` then
    ``advance`` of side 0, then of side 1. Anything else is a ValueError.
    """

    def __init__(
        self,
        model: ContextModel,
        shapes: Mapping[str, tuple[int, ...]],
        dtype: type[np.generic] = np.float32,
    ) -> None:
        """See :meth:`ContextModel.open`."""
        prepared = model.prepared(dtype)
        self._odds = model.probabilities
        self.planes = {
            name: PlaneState(grid_of(*shapes[name]), part.colours)
            for name, part in prepared.items()
        }
        self._evaluators = {
            name: PlaneEvaluator(
                part,
                self.planes[name],
                [self.planes[mate] for mate in model.mates[name]],
                [self.planes[other] for other in model.coarser[name]],
            )
            for name, part in prepared.items()
        }

    def positions(self, plane: str, side: int) -> npt.NDArray[np.int64]:
        """Flat positions (row * width + column) of a checkerboard pass: int64 [n], ascending.

        side: 0 where row + column is even, 1 where it is odd; may be empty.
        """
        return self.planes[plane].grid.positions[side]

    def probabilities(self, plane: str, depth: int, side: int) -> Probabilities:
        """P(bit = 1) * 2**16 for the positions of a pass, at least 1: uint16 [n].

        Uses everything advanced so far and nothing else.
        """
        self.planes[plane].check(depth, side)
        odds: Probabilities = self._odds[self._evaluators[plane].odds(depth, side)]
        return odds

    def advance(self, plane: str, depth: int, side: int, bits: npt.NDArray[np.uint8]) -> None:
        """Split the nodes of a pass: node -> 2 node + bit. bits: uint8 [n], 0 or 1."""
        state = self.planes[plane]
        state.check(depth, side)
        if bits.shape != state.grid.positions[side].shape or bits.max(initial=0) > 1:
            raise ValueError(f"a pass of {len(state.grid.positions[side])} takes as many bits")
        state.advance(depth, side, bits)

    def indices(self, plane: str) -> IndexArray:
        """A copy of the node at each position, at the depth that :meth:`depths` says: [h, w]."""
        state = self.planes[plane]
        return state.nodes.reshape(state.grid.shape).copy()

    def depths(self, plane: str) -> npt.NDArray[np.uint8]:
        """Depth of the node at each position: uint8 [h, w]; one apart inside a split."""
        state = self.planes[plane]
        out = np.empty(state.nodes.shape, np.uint8)
        for side in range(PASSES):
            out[state.grid.positions[side]] = state.known[side]
        return out.reshape(state.grid.shape)


def known_depths(palette: MarkovPalette) -> dict[tuple[str, int], dict[str, int]]:
    """Depth of every plane when the stream comes to (plane, depth)."""
    depths = {plane.name: 0 for plane in palette.planes}
    known = {}
    for state in range(palette.coarsest_state, palette.finest_state - 1, -1):
        for plane, depth, side in palette.passes(state):
            if side == 0:
                known[plane, depth] = dict(depths)
                depths[plane] = depth + 1
    return known


def relations(
    planes: Sequence[PlaneSpec],
) -> tuple[dict[str, tuple[str, ...]], dict[str, tuple[str, ...]]]:
    """By plane: the other planes of its scale, and those of the scale that comes before it."""
    scales = list(dict.fromkeys(plane.scale for plane in planes))
    members = {scale: [p.name for p in planes if p.scale == scale] for scale in scales}
    mates, coarser = {}, {}
    for plane in planes:
        rank = scales.index(plane.scale)
        mates[plane.name] = tuple(n for n in members[plane.scale] if n != plane.name)
        coarser[plane.name] = tuple(members[scales[rank - 1]]) if rank else ()
    return mates, coarser


@dataclass(frozen=True, slots=True)
class _Pass:
    """The arrays of one pass, in the type of number that they are evaluated in."""

    own: NumberArray
    mates: NumberArray
    place: NumberArray
    entry: NumberArray
    summary: NumberArray
    summary_bias: NumberArray
    readout: NumberArray
    prior: NumberArray
    shifts: tuple[int, ...]


class PreparedNetwork:
    """One plane's network and colours, once for all pictures."""

    def __init__(self, network: PlaneNetwork, tree: PaletteTree, dtype: type[np.generic]) -> None:
        self.network = network
        self.dtype = dtype
        self.colours = heap_colours(tree, dtype)
        self.passes = []
        for depth in range(network.depth):
            rows = slice(2**depth - 1, 2 ** (depth + 1) - 1)
            entry, readout, prior = (
                part[rows].astype(dtype) for part in (network.entry, network.readout, network.prior)
            )
            for group in range(PASSES * depth, PASSES * (depth + 1)):
                own, mates, place, summary, bias = (
                    part[group].astype(dtype)
                    for part in (
                        network.own, network.mates, network.place,
                        network.summary, network.summary_bias,
                    )
                )  # fmt: skip
                shifts = tuple(int(shift) for shift in network.shifts[:, group])
                self.passes.append(
                    _Pass(own, mates, place, entry, summary, bias, readout, prior, shifts)
                )


class Grid:
    """Where the positions of a grid are, once for all planes of its shape; one row and column
    of nothing around it."""

    def __init__(self, height: int, width: int) -> None:
        self.shape = (height, width)
        self.stride = width + 2
        self.size = (height + 2) * self.stride
        rows, columns = np.divmod(np.arange(height * width, dtype=np.int64), width)
        parity = (rows + columns) & 1
        self.positions = [np.flatnonzero(parity == side) for side in range(PASSES)]
        self.padded = (rows + 1) * self.stride + columns + 1
        self.sides = [self.padded[positions] for positions in self.positions]

    def steps(self, steps: Sequence[tuple[int, int]]) -> npt.NDArray[np.int64]:
        """Steps (row, column) as distances in the padded grid."""
        return np.array([row * self.stride + column for row, column in steps], np.int64)


grid_of = lru_cache(maxsize=16)(Grid)
"""A grid of such a height and width, which is made once and never changes."""


class PlaneState:
    """One plane's nodes, and on the padded grid the rows of their colours."""

    def __init__(self, grid: Grid, colours: NumberArray) -> None:
        """colours: as :func:`heap_colours` gives them."""
        self.grid = grid
        self.nodes = np.zeros(grid.shape[0] * grid.shape[1], np.int32)
        self.known = [0] * PASSES
        self.version = 0
        self._colours, self._depth = colours, len(colours).bit_length() - 2
        self._rows = np.full(grid.size, len(colours) - 1, np.int32)
        self._rows[grid.padded] = 0

    def around(self, where: npt.NDArray[np.int64]) -> NumberArray:
        """See :meth:`Shown.around`."""
        found: NumberArray = self._colours.take(self._rows.take(where), axis=0)
        return found

    def check(self, depth: int, side: int) -> None:
        if side not in (0, 1) or self.known != [depth + side, depth]:
            raise ValueError(f"pass {side} of depth {depth} comes not after depths {self.known}")
        if depth >= self._depth:
            raise ValueError(f"a tree of depth {depth} has no split at depth {depth}")

    def advance(self, depth: int, side: int, bits: npt.NDArray[np.uint8]) -> None:
        positions = self.grid.positions[side]
        nodes = 2 * self.nodes[positions] + bits
        self.nodes[positions] = nodes
        self._rows[self.grid.sides[side]] = nodes + (2 ** (depth + 1) - 1)
        self.known[side] = depth + 1
        self.version += 1


def heap_colours(tree: PaletteTree, dtype: type[np.generic]) -> NumberArray:
    """Colours of all nodes as inputs of networks, in heap order, and a row of nothing behind them:
    [2**(depth + 1), columns]."""
    rows = [input_colours(tree, depth) for depth in range(tree.depth + 1)]
    found: NumberArray = np.concatenate([*rows, np.zeros_like(rows[0])]).astype(dtype)
    return found


class PlaneEvaluator:
    """Runs one plane's network on one picture."""

    def __init__(
        self,
        prepared: PreparedNetwork,
        state: PlaneState,
        mates: Sequence[Shown],
        coarser: list[PlaneState],
    ) -> None:
        network = prepared.network
        self._network = network
        self._passes = prepared.passes
        self._dtype = prepared.dtype
        self._state = state
        self._mates = mates if network.mates.shape[1] else []
        self._coarser = coarser if network.trunk is not None else []
        grid = state.grid
        self._own_steps = grid.steps(OWN_STEPS)
        self._mate_steps = grid.steps(MATE_STEPS)
        self._seen: tuple[int, ...] = ()
        ratio = network.ratio()
        for other in self._coarser:
            if grid.shape != tuple(ratio * side for side in other.grid.shape):
                raise ValueError(f"a grid of {grid.shape} is not {ratio} times {other.grid.shape}")
        cells = len(self._coarser[0].nodes) if self._coarser else 0
        self._ran = np.zeros(cells, bool)
        self._filled = [False] * PASSES
        self._phases = np.zeros((cells, ratio**2 * network.features), self._dtype)

    def odds(
        self, depth: int, side: int, chosen: npt.NDArray[np.intp] | None = None
    ) -> npt.NDArray[np.intp]:
        """Where in the table of probabilities the positions of a pass are: [n].

        chosen: of the side's positions those that are asked for, ascending; None is all.
        """
        weights = self._passes[PASSES * depth + side]
        grid = self._state.grid
        padded, positions = grid.sides[side], grid.positions[side]
        if chosen is not None:
            padded, positions = padded[chosen], positions[chosen]
        place = self._places(side, chosen)
        out = np.empty(len(padded), np.intp)
        for start in range(0, len(padded), _BLOCK):
            block = slice(start, start + _BLOCK)
            nodes = self._state.nodes.take(positions[block])
            hidden = gather([self._state], padded[block], self._own_steps) @ weights.own
            if self._mates:
                hidden += gather(self._mates, padded[block], self._mate_steps) @ weights.mates
            hidden += place[block] @ weights.place
            hidden += weights.entry.take(nodes, axis=0)
            summary = activated(hidden, weights.shifts[0]) @ weights.summary
            summary += weights.summary_bias
            summary = activated(summary, weights.shifts[1])
            odds = np.einsum("nc,nc->n", summary, weights.readout.take(nodes, axis=0))
            odds += weights.prior.take(nodes)
            out[block] = shifted(odds, weights.shifts[2]).clip(-ODDS_LIMIT, ODDS_LIMIT)
        out += ODDS_LIMIT
        return out

    @cached_property
    def _place(self) -> list[NumberArray]:
        grid = self._state.grid
        inside = np.zeros(grid.size, self._dtype)
        inside[grid.padded] = UNIT
        place = []
        for padded in grid.sides:
            here = np.empty((len(padded), PLACE_INPUTS + self._network.features), self._dtype)
            here[:, 0] = UNIT
            here[:, 1:PLACE_INPUTS] = inside[padded[:, None] + grid.steps(NEAREST)]
            place.append(here)
        return place

    def _places(self, side: int, chosen: npt.NDArray[np.intp] | None) -> NumberArray:
        """Inputs of the place: [n, 5 + features]. The trunk runs where it has not yet run on what
        the coarser planes are now, and only at what is asked for."""
        here = self._place[side] if chosen is None else self._place[side][chosen]
        if not self._coarser:
            return here
        seen = tuple(other.version for other in self._coarser)
        if seen != self._seen:
            self._seen = seen
            self._ran[:] = False
            self._filled = [False] * PASSES
        if self._filled[side]:
            return here
        self._filled[side] = chosen is None
        ratio, width = self._network.ratio(), self._coarser[0].grid.shape[1]
        positions = self._state.grid.positions[side]
        rows, columns = np.divmod(
            positions if chosen is None else positions[chosen], self._state.grid.shape[1]
        )
        parents = rows // ratio * width + columns // ratio
        wanted = np.zeros_like(self._ran)
        wanted[parents] = True
        wanted &= ~self._ran
        self._run_trunk(np.flatnonzero(wanted))
        phases = rows % ratio * ratio + columns % ratio
        here[:, PLACE_INPUTS:] = self._phases.reshape(-1, self._network.features).take(
            parents * ratio**2 + phases, axis=0
        )
        return here

    def _run_trunk(self, where: npt.NDArray[np.intp]) -> None:
        """where: positions of the coarser scale, flat."""
        self._ran[where] = True
        grid, trunk = self._coarser[0].grid, self._network.trunk
        assert trunk is not None
        first = trunk.weights.astype(self._dtype)
        second = trunk.phase_weights.astype(self._dtype)
        steps = grid.steps(COARSE_STEPS)
        for start in range(0, len(where), _BLOCK):
            block = where[start : start + _BLOCK]
            hidden = gather(self._coarser, grid.padded[block], steps) @ first
            hidden += trunk.bias.astype(self._dtype)
            hidden = activated(hidden, int(trunk.shifts[0])) @ second
            hidden += trunk.phase_bias.astype(self._dtype)
            self._phases[block] = activated(hidden, int(trunk.shifts[1]))


class Shown(Protocol):
    """What a network sees around positions."""

    def around(self, where: npt.NDArray[np.int64]) -> NumberArray:
        """Inputs at rows of the padded grid: [..., columns]."""


def gather(
    states: Sequence[Shown], padded: npt.NDArray[np.int64], steps: npt.NDArray[np.int64]
) -> NumberArray:
    """Colours around positions: [n, steps * columns], step by step, in it plane by plane."""
    where = padded[:, None] + steps
    parts = [state.around(where) for state in states]
    joined = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)
    return joined.reshape(len(padded), -1)
