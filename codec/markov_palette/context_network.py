"""One plane's context network: integer weights, integer activations, no rounding anywhere.

For the split of a node from depth d to d + 1 in checkerboard pass s, with g = 2 d + s:

    hidden  = clip((own . W_own[g] + mates . W_mates[g] + place . W_place[g] + entry[node])
                   >> hidden_shift[g], 0, 255)
    summary = clip((hidden . W_summary[g] + summary_bias[g]) >> summary_shift[g], 0, 255)
    odds    = clip((summary . readout[node] + prior[node]) >> readout_shift[g], -256, 256)

and ``odds`` indexes a table of probabilities. The inputs, all integers:

- own: colours of the eight neighbours' nodes in this plane (finer where already split);
- mates: colours of the other planes of the same scale, here and at the four nearest neighbours;
- place: a constant, whether each nearest neighbour is inside, and, where a coarser scale exists,
  what the trunk makes of its colours in the 3 x 3 positions around this one's:

    trunk   = clip((coarse . W_trunk + trunk_bias) >> trunk_shift, 0, 255)
    place   = clip((trunk . W_phase + phase_bias) >> phase_shift, 0, 255), one part a sub-position

Every sum of absolute terms stays below 2**24, so that float32 arithmetic in any order is exact:
the same probabilities on every machine. A network that breaks the bound is refused. Our own
design; checkerboard passes as in He et al., "Checkerboard Context Model" (CVPR 2021).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from codec.exact import (
    ACTIVATION_LIMIT,
    UNIT,
    absolute,
    check_bound,
    check_integers,
    named_fields,
    read_fields,
)
from codec.markov_palette.palette import PaletteTree
from shared.errors import BundleError

Int16Array = npt.NDArray[np.int16]
Int32Array = npt.NDArray[np.int32]

PASSES: Final = 2
NEAREST: Final = ((-1, 0), (0, -1), (0, 1), (1, 0))
"""Row and column steps to the neighbours of the other checkerboard colour."""
DIAGONAL: Final = ((-1, -1), (-1, 1), (1, -1), (1, 1))
OWN_STEPS: Final = NEAREST + DIAGONAL
MATE_STEPS: Final = ((0, 0), *NEAREST)
COARSE_STEPS: Final = tuple((row, column) for row in (-1, 0, 1) for column in (-1, 0, 1))

COLOUR_LIMIT: Final = 127
PLACE_INPUTS: Final = 1 + len(NEAREST)
"""Inputs that every position has: a constant and the insides, ``UNIT`` or 0 each."""
ODDS_UNIT: Final = 32
ODDS_LIMIT: Final = 256
"""Log odds are integers in 1/32, within -8..8: no surprise costs more than about 11.5 bits."""
_MAX_WIDTH: Final = 1024
_MAX_SHIFT: Final = 30
_ROW: Final = 8


def padded_channels(channels: int) -> int:
    """Columns that a plane's colours take: the next multiple of 8 (32-byte rows gather fast)."""
    return -(-channels // _ROW) * _ROW


def input_colours(tree: PaletteTree, depth: int) -> npt.NDArray[np.float32]:
    """The palette at ``depth`` as network inputs: float32 [2**depth, padded channels].

    Integers in -127..127: the colours on a coarser grid, the same for all depths of a tree.
    """
    largest = int(np.abs(tree.nodes.astype(np.int32)).max(initial=0))
    shift = max(0, (largest // (COLOUR_LIMIT + 1)).bit_length())
    colours = tree.integer_colours(depth).astype(np.int32)
    rounded = (colours + ((1 << shift) >> 1)) >> shift
    out = np.zeros((len(colours), padded_channels(tree.channels)), np.float32)
    out[:, : tree.channels] = np.clip(rounded, -COLOUR_LIMIT, COLOUR_LIMIT)
    return out


@dataclass(frozen=True, slots=True, eq=False)
class Trunk:
    """A network from the coarser scale to features of each position's sub-positions.

    weights: int16 [9 * columns, width], rows step by step, in it plane by plane (each plane's
    padded channels). bias: int32 [width]. phase_weights: int16 [width, ratio**2 * features].
    phase_bias: int32 [ratio**2 * features]. shifts: int32 [2].
    """

    weights: Int16Array
    bias: Int32Array
    phase_weights: Int16Array
    phase_bias: Int32Array
    shifts: Int32Array


@dataclass(frozen=True, slots=True, eq=False)
class PlaneNetwork:
    """One plane's network; nodes are in heap order (node k of depth d is row 2**d - 1 + k).

    Raises BundleError ``bad_contexts`` on arrays that fit no network, or break the bound.

    own: int16 [2 depth, 8 * columns, hidden]. mates: int16 [2 depth, 5 * mate columns, hidden]
    (no rows: it does not look at them).
    place: int16 [2 depth, 5 + features, hidden]. entry: int32 [nodes, hidden]. summary: int16
    [2 depth, hidden, width]; summary_bias: int32 [2 depth, width]. readout: int16 [nodes, width];
    prior: int32 [nodes]. shifts: int32 [3, 2 depth] (hidden, summary, readout). trunk: None when it
    looks at no coarser scale. nodes is 2**depth - 1.
    """

    own: Int16Array
    mates: Int16Array
    place: Int16Array
    entry: Int32Array
    summary: Int16Array
    summary_bias: Int32Array
    readout: Int16Array
    prior: Int32Array
    shifts: Int32Array
    trunk: Trunk | None

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_exactness()

    @property
    def depth(self) -> int:
        """Splits that it knows: the depth of its plane's tree."""
        return len(self.own) // PASSES

    @property
    def features(self) -> int:
        """What the trunk gives each position: a count, 0 without a trunk."""
        return self.place.shape[1] - PLACE_INPUTS

    def ratio(self) -> int:
        """Positions of this scale along a side of one of the coarser scale; 0 without a trunk."""
        if self.trunk is None:
            return 0
        return round(float(np.sqrt(self.trunk.phase_weights.shape[1] / self.features)))

    def split_macs(self) -> int:
        """Multiply-adds of one split of one position, the trunk not counted."""
        hidden, width = self.summary.shape[1:]
        inputs = self.own.shape[1] + self.mates.shape[1] + self.place.shape[1]
        return inputs * hidden + hidden * width + width

    def trunk_macs(self) -> int:
        """Multiply-adds of the trunk for one position of the coarser scale."""
        if self.trunk is None:
            return 0
        return int(self.trunk.weights.size + self.trunk.phase_weights.size)

    def to_arrays(self, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
        """Named arrays for contexts.npz; :meth:`from_arrays` is the inverse."""
        arrays = named_fields(self, f"{prefix}.")
        if self.trunk is not None:
            arrays |= named_fields(self.trunk, f"{prefix}.trunk_")
        return arrays

    @classmethod
    def from_arrays(
        cls, prefix: str, arrays: Mapping[str, npt.NDArray[np.generic]]
    ) -> PlaneNetwork:
        """Read what :meth:`to_arrays` wrote. Raises BundleError ``bad_contexts``."""
        trunk = None
        if any(name.startswith(f"{prefix}.trunk_") for name in arrays):
            trunk = Trunk(**read_fields(Trunk, f"{prefix}.trunk_", arrays))
        return cls(**read_fields(cls, f"{prefix}.", arrays), trunk=trunk)

    @classmethod
    def constant(cls, tree: PaletteTree, prior: Int32Array, mates: int = 0) -> PlaneNetwork:
        """A network that looks at the node alone: a static table.

        prior: int32 [nodes], log odds in 1/32. mates: columns beside its own that it could look at.
        """
        groups, nodes = PASSES * tree.depth, len(prior)
        zeros = np.zeros
        return cls(
            own=zeros((groups, len(OWN_STEPS) * padded_channels(tree.channels), 1), np.int16),
            mates=zeros((groups, len(MATE_STEPS) * mates, 1), np.int16),
            place=zeros((groups, PLACE_INPUTS, 1), np.int16),
            entry=zeros((nodes, 1), np.int32),
            summary=zeros((groups, 1, 1), np.int16),
            summary_bias=zeros((groups, 1), np.int32),
            readout=zeros((nodes, 1), np.int16),
            prior=prior.astype(np.int32),
            shifts=zeros((3, groups), np.int32),
            trunk=None,
        )

    def _check_shapes(self) -> None:
        def need(name: str, dtype: type[np.integer[Any]], *shape: int) -> None:
            value = getattr(self, name) if hasattr(self, name) else getattr(self.trunk, name[6:])
            check_integers(name, value, dtype, shape)

        for name in ("own", "mates", "place", "summary"):
            value = getattr(self, name)
            if value.ndim != 3:
                raise BundleError("bad_contexts", f"{name} must have three axes")
        groups, own, hidden = self.own.shape
        width = self.summary.shape[2]
        if groups % PASSES or not 2 <= groups <= 2 * 12:
            raise BundleError("bad_contexts", f"{groups} passes are no whole number of splits")
        if not (1 <= hidden <= _MAX_WIDTH and 1 <= width <= _MAX_WIDTH):
            raise BundleError("bad_contexts", f"layers of {hidden} and {width} are out of range")
        nodes = 2 ** (groups // PASSES) - 1
        need("own", np.int16, groups, own, hidden)
        need("mates", np.int16, groups, self.mates.shape[1], hidden)
        need("place", np.int16, groups, self.place.shape[1], hidden)
        need("entry", np.int32, nodes, hidden)
        need("summary", np.int16, groups, hidden, width)
        need("summary_bias", np.int32, groups, width)
        need("readout", np.int16, nodes, width)
        need("prior", np.int32, nodes)
        need("shifts", np.int32, 3, groups)
        if (self.trunk is None) != (self.features == 0) or self.features < 0:
            raise BundleError("bad_contexts", "place does not fit the trunk")
        shifts = [self.shifts]
        if self.trunk is not None:
            weights, outputs = self.trunk.weights, self.trunk.phase_weights
            if weights.ndim != 2 or outputs.ndim != 2:
                raise BundleError("bad_contexts", "the trunk's weights must have two axes")
            inner, out = weights.shape[1], outputs.shape[1]
            if not (1 <= inner <= _MAX_WIDTH and 1 <= out <= 16 * _MAX_WIDTH):
                raise BundleError("bad_contexts", f"a trunk of {inner} and {out} is out of range")
            need("trunk_weights", np.int16, weights.shape[0], inner)
            need("trunk_bias", np.int32, inner)
            need("trunk_phase_weights", np.int16, inner, out)
            need("trunk_phase_bias", np.int32, out)
            need("trunk_shifts", np.int32, 2)
            if self.ratio() < 1 or self.ratio() ** 2 * self.features != out:
                raise BundleError("bad_contexts", f"{out} trunk outputs fit no sub-positions")
            shifts.append(self.trunk.shifts)
        if any(np.any((s < 0) | (s > _MAX_SHIFT)) for s in shifts):
            raise BundleError("bad_contexts", "a shift is out of range")

    def _check_exactness(self) -> None:
        heap = np.repeat(np.arange(self.depth), 2 ** np.arange(self.depth))
        entry, readout = absolute(self.entry), absolute(self.readout).sum(1)
        for group in range(PASSES * self.depth):
            nodes = heap == group // PASSES
            hidden = (
                COLOUR_LIMIT
                * (absolute(self.own[group]).sum(0) + absolute(self.mates[group]).sum(0))
                + UNIT * absolute(self.place[group, :PLACE_INPUTS]).sum(0)
                + ACTIVATION_LIMIT * absolute(self.place[group, PLACE_INPUTS:]).sum(0)
                + entry[nodes].max(0)
            )
            summary = ACTIVATION_LIMIT * absolute(self.summary[group]).sum(0) + absolute(
                self.summary_bias[group]
            )
            odds = ACTIVATION_LIMIT * readout[nodes] + absolute(self.prior[nodes])
            for bound, shift in zip((hidden, summary, odds), self.shifts[:, group], strict=True):
                check_bound(bound, int(shift))
        if self.trunk is not None:
            trunk = self.trunk
            bound = COLOUR_LIMIT * absolute(trunk.weights).sum(0) + absolute(trunk.bias)
            check_bound(bound, int(trunk.shifts[0]))
            bound = ACTIVATION_LIMIT * absolute(trunk.phase_weights).sum(0) + absolute(
                trunk.phase_bias
            )
            check_bound(bound, int(trunk.shifts[1]))
