"""Whether a position leaves its reference's path in a layer: one plane's integer network.

With g = 2 l + s, of the plane's l-th layer and checkerboard pass s, and the reference's node at the
depth at which the layer ends:

    hidden = clip((inputs . weights[g] + entry[node]) >> hidden_shift[g], 0, 255)
    odds   = clip((hidden . readout[g] + bias[g] + prior[node]) >> readout_shift[g], -256, 256)

which are log odds in 1/32 that it does, and index the contexts' table of probabilities. Inputs are
integers: 64 where a neighbour of this plane has left its reference's path before this layer
(eight), and where one is known to leave it in this layer (the nearest four); how early the other
planes of the scale left theirs, here and at the four nearest; and how early each plane of the
coarser scale did, at the four positions there around this one: 0 where they did not, and from 64,
at the last split before, to 120 at the root. Most positions have none of it: a table is enough.

Exact on every machine as :mod:`codec.markov_palette.context_network` is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from codec.exact import (
    ACTIVATION_LIMIT,
    UNIT,
    NumberArray,
    absolute,
    activated,
    check_bound,
    check_integers,
    named_fields,
    read_fields,
    shifted,
)
from codec.markov_palette.context_network import (
    COLOUR_LIMIT,
    NEAREST,
    ODDS_LIMIT,
    OWN_STEPS,
    PASSES,
)
from codec.markov_palette.palette import MarkovPalette
from shared.errors import BundleError

Int16Array = npt.NDArray[np.int16]
Int32Array = npt.NDArray[np.int32]

OWN_INPUTS: Final = len(OWN_STEPS) + len(NEAREST)
MATE_INPUTS: Final = 1 + len(NEAREST)
COARSE_INPUTS: Final = 4
_MAX_HIDDEN: Final = 256
_MAX_SHIFT: Final = 30


class PlaneLayer(NamedTuple):
    """A layer of a plane: the state that it leads to, and its depths before and after."""

    state: int
    before: int
    after: int


def layers_of(palette: MarkovPalette, plane: str) -> list[PlaneLayer]:
    """The layers that split a plane's nodes, coarsest first."""
    found = []
    for state in range(palette.coarsest_state, palette.finest_state - 1, -1):
        before, after = palette.depths(state + 1)[plane], palette.depths(state)[plane]
        if after > before:
            found.append(PlaneLayer(state, before, after))
    return found


def left_at(splits: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """How early a path was left, as an input: splits: how many had been followed, 0 and more."""
    found: npt.NDArray[np.intp] = UNIT + 8 * np.maximum(7 - splits, 0)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class ChangeNetwork:
    """One plane's network; nodes are in heap order, those of all depths.

    weights: int16 [2 layers, inputs, hidden]. entry: int32 [nodes, hidden]. readout: int16
    [2 layers, hidden]. bias: int32 [2 layers]. prior: int32 [nodes]. still: uint16 [layers], the
    chance times 2**16, at least 1, that no position of the plane changes in a layer. shifts: int32
    [2, 2 layers]. costs: float32 [2, layers, 9], bits of not changing and of changing where so many
    of the eight neighbours change: what encoders reckon with, and no decoder. Raises BundleError
    ``bad_contexts``.
    """

    weights: Int16Array
    entry: Int32Array
    readout: Int16Array
    bias: Int32Array
    prior: Int32Array
    still: npt.NDArray[np.uint16]
    shifts: Int32Array
    costs: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        if self.weights.ndim != 3 or self.entry.ndim != 2:
            raise BundleError("bad_contexts", "weights of changes must have three axes")
        groups, inputs, hidden = self.weights.shape
        nodes = len(self.entry)
        if groups % PASSES or not 0 < groups <= 2 * 64 or not 1 <= hidden <= _MAX_HIDDEN:
            raise BundleError("bad_contexts", f"no network of changes has {self.weights.shape}")
        for name, dtype, shape in (
            ("weights", np.int16, (groups, inputs, hidden)),
            ("entry", np.int32, (nodes, hidden)),
            ("readout", np.int16, (groups, hidden)),
            ("bias", np.int32, (groups,)),
            ("prior", np.int32, (nodes,)),
            ("still", np.uint16, (groups // PASSES,)),
            ("shifts", np.int32, (2, groups)),
        ):
            check_integers(name, getattr(self, name), dtype, shape)
        costs = self.costs
        if costs.dtype != np.float32 or costs.shape != (2, groups // PASSES, 9):
            raise BundleError("bad_contexts", "costs of changes must be float32 [2, layers, 9]")
        if not np.isfinite(costs).all() or costs.min() < 0 or self.still.min() < 1:
            raise BundleError("bad_contexts", "costs and chances of changes are out of range")
        if np.any((self.shifts < 0) | (self.shifts > _MAX_SHIFT)):
            raise BundleError("bad_contexts", "a shift is out of range")
        entry, prior = absolute(self.entry).max(0), int(absolute(self.prior).max())
        for group in range(groups):
            inner = COLOUR_LIMIT * absolute(self.weights[group]).sum(0) + entry
            outer = ACTIVATION_LIMIT * absolute(self.readout[group]).sum(keepdims=True)
            outer = outer + absolute(self.bias[group : group + 1]) + prior
            check_bound(inner, int(self.shifts[0, group]))
            check_bound(outer, int(self.shifts[1, group]))

    def with_costs(self, costs: npt.NDArray[np.float32]) -> ChangeNetwork:
        """The same network, and what encoders reckon with."""
        return replace(self, costs=costs)

    def to_arrays(self, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
        """Named arrays for contexts.npz; :meth:`from_arrays` is the inverse."""
        return named_fields(self, prefix)

    @classmethod
    def from_arrays(
        cls, prefix: str, arrays: Mapping[str, npt.NDArray[np.generic]]
    ) -> ChangeNetwork:
        """Read what :meth:`to_arrays` wrote. Raises BundleError ``bad_contexts``."""
        return cls(**read_fields(cls, prefix, arrays))


class ChangeOdds:
    """A network in the type of number that it is evaluated in, once for all pictures."""

    def __init__(
        self,
        network: ChangeNetwork,
        layers: list[PlaneLayer],
        dtype: type[np.generic] = np.float32,
    ) -> None:
        """layers: of the plane."""
        self._dtype, self._shifts = dtype, network.shifts
        self._weights, self._entry, self._readout, self._bias, self._prior = (
            part.astype(dtype)
            for part in (
                network.weights, network.entry, network.readout, network.bias, network.prior
            )
        )  # fmt: skip
        self._first = [2**layer.after - 1 for layer in layers]
        nothing = np.zeros((1, network.weights.shape[1]), dtype)
        self._quiet = [
            self._run(
                PASSES * number + side,
                nothing,
                np.arange(2**layer.after) + self._first[number],
            )
            for number, layer in enumerate(layers)
            for side in range(PASSES)
        ]

    def odds(
        self,
        layer: int,
        side: int,
        nodes: npt.NDArray[np.int32],
        busy: npt.NDArray[np.intp],
        inputs: npt.NDArray[np.uint8],
    ) -> npt.NDArray[np.intp]:
        """Where in the table of probabilities positions are: [n].

        layer: its number among the plane's. nodes: [n], the reference's at the layer's end. busy:
        which of them have inputs that are not all 0. inputs: uint8 [busy, inputs], of these.
        """
        group = PASSES * layer + side
        found = self._quiet[group].take(nodes)
        if len(busy):
            rows = nodes[busy].astype(np.intp) + self._first[layer]
            found[busy] = self._run(group, inputs.astype(self._dtype), rows)
        return found

    def _run(
        self, group: int, inputs: NumberArray, rows: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.intp]:
        hidden = inputs @ self._weights[group] + self._entry.take(rows, axis=0)
        odds = activated(hidden, int(self._shifts[0, group])) @ self._readout[group]
        odds += self._bias[group] + self._prior.take(rows)
        found = shifted(odds, int(self._shifts[1, group])).clip(-ODDS_LIMIT, ODDS_LIMIT)
        return found.astype(np.intp) + ODDS_LIMIT
