"""The tables of every symbol of one picture, from what both ends know so far.

The context networks give a mean in eighths of a step and the number of a scale. A symbol is the
value less the nearest whole step to the mean, so that a table needs to know only where between
two steps the mean lies. Its distributions are logistic ones, integrated over steps, as in Salimans
et al., "PixelCNN++" (2017); they are made in training, and ends of the stream read integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt

from codec.entropy import SymbolTables
from codec.exact import NumberArray, activated, shifted
from codec.lattice_palette.context_network import INPUT_LIMIT, PAST_TAPS, GroupNetwork
from codec.lattice_palette.palette import LatticePalette, LatticePass, Values
from shared.errors import BitstreamError, BundleError

MEAN_UNIT: Final = 8
"""Parts of a step in which means are given."""
SCALES: Final = 32
SCALE_STEPS: Final = 6.0
"""Scales a factor of e: number k is ``exp(SCALE_FIRST + k / SCALE_STEPS)`` steps."""
SCALE_FIRST: Final = -3.0
_TOTAL: Final = 1 << 20


def symbol_tables(limit: int) -> npt.NDArray[np.int32]:
    """Counts for symbols -2 limit to 2 limit: int32 [SCALES * MEAN_UNIT, 4 limit + 1].

    Row ``scale * MEAN_UNIT + part``; the mean lies at ``part / MEAN_UNIT - 1/2``. limit: the
    largest absolute value and mean, in steps. Every row sums to 2**20.
    """
    symbols = np.arange(-2 * limit, 2 * limit + 1)
    rows = []
    for scale in np.exp(SCALE_FIRST + np.arange(SCALES) / SCALE_STEPS):
        for part in range(MEAN_UNIT):
            mean = part / MEAN_UNIT - 0.5
            edges = (np.append(symbols, symbols[-1] + 1) - 0.5 - mean) / scale
            below = 0.5 * (1 + np.tanh(edges / 2))
            # Differences in the upper tail by its mirror image, where they are exact.
            above = 0.5 * (1 - np.tanh(edges / 2))
            chance = np.where(edges[:-1] > 0, above[:-1] - above[1:], below[1:] - below[:-1])
            rows.append(_counts(chance))
    return np.array(rows, np.int32)


def _counts(chance: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    counts = np.maximum(1, np.round(chance / chance.sum() * _TOTAL)).astype(np.int64)
    counts[counts.argmax()] += _TOTAL - counts.sum()
    return np.asarray(counts)


Number = TypeVar("Number", bound=np.generic)
Positions = npt.NDArray[np.intp]
_TABLES = "lattice.tables"
_BENT = "lattice.bent"
_HALF = MEAN_UNIT // 2


class LatticeContexts:
    """The contexts of one chain (contexts.npz). Holds no per-picture state."""

    def __init__(
        self,
        palette: LatticePalette,
        networks: Mapping[str, GroupNetwork],
        counts: npt.NDArray[np.int32],
        bent: npt.NDArray[np.int16],
    ) -> None:
        """counts: as :func:`~codec.lattice_palette.contexts.symbol_tables` makes them.

        bent: int16 [2 limit + 1], what values -limit to limit are to networks. Raises BundleError
        ``bad_contexts``.
        """
        self.palette = palette
        self.networks = {spec.name: networks[spec.name] for spec in palette.specs}
        self.tables = SymbolTables(counts)
        self.bent = bent
        self.limit = len(bent) // 2
        self.scales = len(counts) // MEAN_UNIT
        self._check(counts)
        self._fast = _prepare(self, np.float32)

    @classmethod
    def from_arrays(
        cls, palette: LatticePalette, arrays: Mapping[str, npt.NDArray[np.generic]]
    ) -> LatticeContexts:
        """Read contexts.npz's arrays. Raises BundleError ``bad_contexts``."""
        for name in (_TABLES, _BENT):
            if name not in arrays:
                raise BundleError("bad_contexts", f"contexts.npz lacks {name}")
        networks = {
            spec.name: GroupNetwork.from_arrays(spec.name, arrays) for spec in palette.specs
        }
        return cls(palette, networks, arrays[_TABLES], arrays[_BENT])  # type: ignore[arg-type]

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Everything contexts.npz holds."""
        arrays: dict[str, npt.NDArray[np.generic]] = {
            _TABLES: self.tables.counts,
            _BENT: self.bent,
        }
        for name, network in self.networks.items():
            arrays |= network.to_arrays(name)
        return arrays

    def bits(
        self, symbols: npt.NDArray[np.int32], tables: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.float32]:
        """What symbols cost with their tables: float32, for encoders' decisions only."""
        found: npt.NDArray[np.float32] = self._bits[tables, symbols]
        return found

    @cached_property
    def _bits(self) -> npt.NDArray[np.float32]:
        counts = self.tables.counts
        bits: npt.NDArray[np.float32] = np.log2(counts[0].sum() / counts).astype(np.float32)
        return bits

    def open(
        self, grids: Mapping[str, tuple[int, int]], dtype: type[np.generic] = np.float32
    ) -> PictureLattice:
        """Begin a picture of which nothing is known.

        grids: (rows, columns) of each plane. dtype: float32, float64 or int64, which give the
        same tables; float32 is fast.
        """
        prepared = self._fast if dtype is np.float32 else _prepare(self, dtype)
        return PictureLattice(self, prepared, grids, dtype)

    def _check(self, counts: npt.NDArray[np.int32]) -> None:
        bent = self.bent
        if (
            bent.dtype != np.int16
            or bent.ndim != 1
            or len(bent) % 2 == 0
            or np.abs(bent.astype(int)).max() > INPUT_LIMIT
            or bent[self.limit] != 0
        ):
            raise BundleError("bad_contexts", f"{_BENT} must be int16, odd in length, 0 for 0")
        if len(counts) % MEAN_UNIT or counts.shape[1] != 4 * self.limit + 1:
            raise BundleError("bad_contexts", f"{_TABLES} does not fit values of {self.limit}")
        before: dict[str, int] = {}
        for spec in self.palette.specs:
            network = self.networks[spec.name]
            limit = int(self.palette.planes[spec.name].limits.max())
            fits = (
                network.channels == spec.channels
                and network.past.shape[0] == PAST_TAPS * before.get(spec.scale, 0)
                and network.own.shape[0] == self.palette.phases
                and limit <= self.limit
            )
            if not fits:
                raise BundleError(
                    "bad_contexts", f"the network of plane {spec.name} fits another palette"
                )
            before[spec.scale] = before.get(spec.scale, 0) + spec.channels


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A plane's arrays in the type of number that they are evaluated in.

    own, taps: by phase, of the window's taps that are looked at. before: channels of the past.
    """

    past: NumberArray
    own: list[NumberArray]
    taps: list[Positions]
    bias: NumberArray
    middle: NumberArray
    middle_bias: NumberArray
    out: NumberArray
    out_bias: NumberArray
    shifts: tuple[int, int, int]
    radius: int
    before: int


def _prepare(contexts: LatticeContexts, dtype: type[np.generic]) -> dict[str, _Prepared]:
    found = {}
    for spec in contexts.palette.specs:
        n = contexts.networks[spec.name]
        first, second, third = (int(shift) for shift in n.shifts)
        own, taps = [], []
        for weights in n.own:
            by_tap = weights.reshape(-1, n.channels, weights.shape[1])
            used = np.flatnonzero(by_tap.any((1, 2)))
            taps.append(used)
            own.append(by_tap[used].reshape(-1, weights.shape[1]).astype(dtype))
        found[spec.name] = _Prepared(
            n.past.astype(dtype),
            own,
            taps,
            n.bias.astype(dtype),
            n.middle.astype(dtype),
            n.middle_bias.astype(dtype),
            n.out.astype(dtype),
            n.out_bias.astype(dtype),
            (first, second, third),
            n.radius,
            n.past.shape[0] // PAST_TAPS,
        )
    return found


class PictureLattice:
    """The known values of one picture, and the tables of the next ones.

    The order of calls is that of the stream: for every pass ``tables``, then ``advance``.
    Anything else is a ValueError.
    """

    def __init__(
        self,
        model: LatticeContexts,
        prepared: Mapping[str, _Prepared],
        grids: Mapping[str, tuple[int, int]],
        dtype: type[np.generic],
    ) -> None:
        """Use :meth:`LatticeContexts.open`."""
        self._model, self._prepared = model, prepared
        self._bent = model.bent.astype(dtype)
        self._specs = {spec.name: spec for spec in model.palette.specs}
        self._next = dict.fromkeys(self._specs, 0)
        radius = max(1, *(part.radius for part in prepared.values()))
        self._grids: dict[str, _Grid] = {}
        for spec in model.palette.specs:
            if spec.scale not in self._grids:
                self._grids[spec.scale] = _Grid(grids[spec.name], model.palette.order, radius)
        counts = dict.fromkeys(self._grids, 0)
        for spec in model.palette.specs:
            counts[spec.scale] += spec.channels
        self._seen = {
            scale: np.zeros((grid.size, counts[scale]), dtype)
            for scale, grid in self._grids.items()
        }
        self._values = {
            spec.name: np.zeros((self._grids[spec.scale].cells, spec.channels), np.int32)
            for spec in model.palette.specs
        }
        self._past: dict[str, NumberArray] = {}
        self._bases: npt.NDArray[np.int32] | None = None

    def of_pass(self, step: LatticePass, channels: npt.NDArray[Number]) -> npt.NDArray[Number]:
        """A plane's values [C, h, w] where the pass sends them: [n, C]."""
        return channels.reshape(len(channels), -1)[:, self.positions(step)].T

    def positions(self, step: LatticePass) -> Positions:
        """Flat positions (row * columns + column) of a pass, ascending: intp [n]."""
        return self._grids[self._specs[step.plane].scale].positions[step.phase]

    def tables(self, step: LatticePass) -> npt.NDArray[np.intp]:
        """The table of every symbol of a pass: intp [n * C], position by position.

        Uses everything advanced so far and nothing else.
        """
        if self._next[step.plane] != step.phase:
            raise ValueError(f"{step} comes not after phase {self._next[step.plane]}")
        spec, part = self._specs[step.plane], self._prepared[step.plane]
        grid, seen = self._grids[spec.scale], self._seen[spec.scale]
        where = grid.padded[step.phase]
        own = slice(spec.first_channel, spec.first_channel + spec.channels)
        hidden = np.repeat(part.bias[step.phase : step.phase + 1], len(where), axis=0)
        if len(taps := part.taps[step.phase]):
            near = _window(seen, where, grid.steps(part.radius)[taps], own)
            hidden += near @ part.own[step.phase]
        if part.before:
            if step.plane not in self._past:
                around = _window(seen, grid.every, grid.steps(1), slice(0, part.before))
                self._past[step.plane] = around @ part.past
            hidden += self._past[step.plane][grid.positions[step.phase]]
        hidden = activated(hidden, part.shifts[0]) @ part.middle
        hidden += part.middle_bias
        outputs = activated(hidden, part.shifts[1]) @ part.out
        outputs += part.out_bias
        outputs = shifted(outputs, part.shifts[2])
        most = MEAN_UNIT * self._model.limit - _HALF
        means = outputs[:, : spec.channels].clip(-most, most).astype(np.int32)
        scales = outputs[:, spec.channels :].clip(0, self._model.scales - 1).astype(np.int32)
        self._bases = (means + _HALF) // MEAN_UNIT
        parts = means + _HALF - MEAN_UNIT * self._bases
        tables: npt.NDArray[np.intp] = (MEAN_UNIT * scales + parts).reshape(-1).astype(np.intp)
        return tables

    def symbols(self, step: LatticePass, values: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
        """The symbols of ``values`` (int32 [n, C]) in the pass whose tables were asked for: int32
        [n * C]."""
        assert self._bases is not None
        return (values - self._bases + 2 * self._model.limit).reshape(-1).astype(np.int32)

    def advance(self, step: LatticePass, symbols: npt.NDArray[np.int32]) -> None:
        """Learn the symbols of the pass whose tables were asked for.

        Raises BitstreamError ``bad_payload`` when they stand for values that the palette lacks.
        """
        if self._bases is None or self._next[step.plane] != step.phase:
            raise ValueError(f"{step} comes before its tables")
        spec = self._specs[step.plane]
        grid = self._grids[spec.scale]
        values = symbols.reshape(self._bases.shape) - 2 * self._model.limit + self._bases
        if (np.abs(values) > self._model.palette.planes[step.plane].limits).any():
            raise BitstreamError("bad_payload", f"plane {step.plane}: a value past its limit")
        self._values[step.plane][grid.positions[step.phase]] = values
        own = slice(spec.first_channel, spec.first_channel + spec.channels)
        self._seen[spec.scale][grid.padded[step.phase], own] = self._bent[
            values + self._model.limit
        ]
        self._next[step.plane] += 1
        self._bases = None

    def values(self) -> Values:
        """What is known: int32 [C, h, w] a plane, 0 elsewhere."""
        return {
            name: np.ascontiguousarray(flat.T).reshape(
                self._specs[name].channels, *self._grids[self._specs[name].scale].shape
            )
            for name, flat in self._values.items()
        }

    def known(self) -> dict[str, npt.NDArray[np.bool_]]:
        """Where the values of a plane are known: bool [h, w] a plane."""
        return {
            name: self._grids[spec.scale].phase < self._next[name]
            for name, spec in self._specs.items()
        }


class _Grid:
    """Where the positions of a scale are, with a border of nothing around it."""

    def __init__(self, shape: tuple[int, int], order: npt.NDArray[np.uint8], radius: int) -> None:
        rows, columns = shape
        self.shape, self.cells = shape, rows * columns
        self._stride = columns + 2 * radius
        self.size = (rows + 2 * radius) * self._stride
        row, column = np.divmod(np.arange(self.cells), columns)
        phase = order[row % len(order), column % len(order)]
        self.phase = phase.reshape(shape)
        self.every = (row + radius) * self._stride + column + radius
        self.positions = [np.flatnonzero(phase == p) for p in range(int(order.max()) + 1)]
        self.padded = [self.every[positions] for positions in self.positions]

    def steps(self, radius: int) -> Positions:
        """The window's steps as distances in the padded grid, row by row."""
        reach = np.arange(-radius, radius + 1)
        return (reach[:, None] * self._stride + reach).reshape(-1)


def _window(seen: NumberArray, where: Positions, steps: Positions, columns: slice) -> NumberArray:
    """Values around positions: [n, taps * columns], tap by tap."""
    gathered: NumberArray = seen[:, columns][where[:, None] + steps]
    return gathered.reshape(len(where), len(steps) * gathered.shape[2])
