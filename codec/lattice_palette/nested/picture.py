"""What both ends know of one picture of nested lattices, and the odds of the next bits.

A value is told as bits: whether it is what is expected of it, then on which side it lies, then how
far. Expected is, at a plane's first depth, the reference's value, or in a key frame the mean of the
neighbours that are known; at deeper ones the middle of the three values that are left, or that of
them which is nearest to the reference's.

In a predicted frame a layer begins with one bit, whether the reference has the layer too. Where it
has not, the layer is told as in a key frame. Where it has, two bits say how much of the picture
changes: nothing, or up to a share; then a bit a position says whether anything in this layer is not
what is expected there, and only such positions have more bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from codec.exact import NumberArray
from codec.lattice_palette.nested.network import INPUT_LIMIT, Evaluator
from codec.lattice_palette.nested.palette import (
    Depths,
    Integers,
    NestedPalette,
    NestedPass,
    Values,
)
from codec.lattice_palette.nested.seen import (
    Recorder,
    Seen,
    add_fresh,
    crossing,
    fresh_inputs,
    summed,
)
from codec.lattice_palette.nested.surroundings import (
    Grid,
    Places,
    changed_classes,
    fresh_classes,
)
from codec.lattice_palette.planes import channels
from codec.standalone import reference_mismatch
from shared.errors import BitstreamError

Bits = npt.NDArray[np.uint8]
Exchange = Callable[[npt.NDArray[np.uint16]], Bits]
"""Codes or decodes bits: P(bit = 1) * 2**16 each -> the bits."""


BENT_LIMIT: Final = 255
LACKING: Final = 512
"""P * 2**16 that a layer is told without the reference."""
SHARES: Final = (0.06, 0.2)
"""Of positions that change: up to the first, up to the second, more."""
_EVEN: Final = 1 << 15
FLAG: Final = 32
"""The integer that stands for a flag among inputs."""


class Model(Protocol):
    """What a picture needs of its contexts, see
    :class:`~codec.lattice_palette.nested.contexts.NestedContexts`."""

    @property
    def palette(self) -> NestedPalette: ...
    @property
    def odds(self) -> npt.NDArray[np.uint16]: ...
    @property
    def bent(self) -> npt.NDArray[np.int16]: ...
    @property
    def where(self) -> npt.NDArray[np.uint16] | None: ...


class PictureNested:
    """The known values of one picture; :meth:`run` tells the steps of the stream in their order."""

    def __init__(
        self,
        model: Model,
        evaluators: Mapping[str, Evaluator],
        shape: tuple[int, int],
        reference: tuple[Values, Depths] | None,
        dtype: type[np.generic],
        recorder: Recorder | None,
    ) -> None:
        """Made by ``NestedContexts.open``."""
        self._model, self._evaluators, self._recorder = model, evaluators, recorder
        self._palette = palette = model.palette
        self._grid = Grid(shape, palette.order)
        self._bent = model.bent.astype(dtype)
        count = palette.channels
        self._columns = {spec.name: channels(spec) for spec in palette.specs}
        # Of every cell of the padded grid, and channel: the value at the depth that is known, and
        # what networks see of it, and of its difference from the reference's.
        self._values = np.zeros((self._grid.size, count), np.int32)
        self._seen = np.zeros((self._grid.size, count), dtype)
        self._known = {spec.name: 0 for spec in palette.specs}
        self._fresh_phases: dict[str, int] = {}
        self._layer: int | None = None
        self._predicted, self._share = False, 0
        self.reference = reference is not None
        self._goal: dict[str, list[Integers]] = {}
        self._wanted: Bits | None = None
        if reference is not None:
            self._read_reference(*reference)
            self._away = np.zeros((self._grid.size, count), dtype)
            self._changed = np.zeros(self._grid.size, np.bool_)
            self._before = np.zeros(self._grid.size, np.bool_)

    # -- the ends ---------------------------------------------------------------------------------

    def aim(self, values: Values, depths: Sequence[int]) -> None:
        """Code these values (int32 [C, h, w] a plane, at ``depths``) from now on."""
        for spec, depth in zip(self._palette.specs, depths, strict=True):
            rows = values[spec.name].reshape(spec.channels, -1).T
            each = range(1, depth + 1)
            self._goal[spec.name] = [self._palette.coarser(rows, depth - d) for d in each]

    def wanted(self) -> Bits:
        """The bits of the exchange that :meth:`run` has just asked for."""
        assert self._wanted is not None, "nothing is asked for that was aimed at"
        return self._wanted

    def begin(self, state: int) -> None:
        """Start with the layer of ``state``."""
        if state != self._layer:
            self._layer, self._predicted = state, False
            if self.reference:
                self._before, self._changed = self._changed, np.zeros_like(self._changed)

    def run(self, step: NestedPass, exchange: Exchange) -> None:
        """Tell one step. Raises BitstreamError ``bad_payload`` for what no encoder tells, or
        ``reference_mismatch`` when the reference lacks what the step was told with."""
        if not step.plane:
            self._where(step.phase, exchange)
        elif self._predicted:
            self._changes(step.plane, step.depth, exchange)
        elif self.reference:
            for phase in range(self._palette.phases):
                self._fresh(step.plane, step.depth, phase, exchange)
        else:
            self._fresh(step.plane, step.depth, step.phase, exchange)

    def places(self, step: NestedPass) -> Places:
        """The positions (row * columns + column) that a step tells of."""
        if step.plane and self.reference:
            return np.arange(self._grid.cells)
        return self._grid.positions[step.phase]

    def found(self) -> tuple[dict[str, Integers], dict[str, npt.NDArray[np.uint8]]]:
        """Values and depths of all planes: int32 [C, h, w], uint8 [h, w]."""
        values, depths = {}, {}
        rows = self._values[self._grid.every]
        for spec in self._palette.specs:
            here = rows[:, self._columns[spec.name]].T
            values[spec.name] = np.ascontiguousarray(here).reshape(-1, *self._grid.shape)
            depth = np.full(self._grid.shape, self._known[spec.name], np.uint8)
            if told := self._fresh_phases.get(spec.name, 0):
                depth += self._grid.phase < told
            depths[spec.name] = depth
        return values, depths

    # -- predicted frames -------------------------------------------------------------------------

    def _read_reference(self, values: Values, depths: Depths) -> None:
        """Values of every plane at every depth that all its positions have."""
        self._reference: dict[str, list[Integers]] = {}
        for spec in self._palette.specs:
            here, depth = values[spec.name], int(depths[spec.name].min())
            rows = np.zeros((self._grid.size, spec.channels), np.int32)
            rows[self._grid.every] = here.reshape(spec.channels, -1).T
            surplus = depths[spec.name].astype(np.int32) - depth
            if surplus.any():
                more = np.zeros(self._grid.size, np.int32)
                more[self._grid.every] = surplus.reshape(-1)
                for times in range(1, int(more.max()) + 1):
                    rows[more >= times] = self._palette.coarser(rows[more >= times], 1)
            each = range(1, depth + 1)
            self._reference[spec.name] = [self._palette.coarser(rows, depth - d) for d in each]

    def _has_layer(self) -> bool:
        assert self._layer is not None
        return all(
            len(self._reference[plane]) > depth for plane, depth in self._palette.told(self._layer)
        )

    def _where(self, phase: int, exchange: Exchange) -> None:
        """Tell at which positions of a phase anything changes; before the first, whether the layer
        is predicted at all."""
        model, grid = self._model, self._grid
        assert self._layer is not None
        assert model.where is not None
        if phase == 0:
            if self._goal:
                self._wanted = np.array([not self._has_layer()], np.uint8)
            lacking = exchange(np.array([LACKING], np.uint16))
            self._predicted = not lacking[0]
            if self._predicted and not self._has_layer():
                raise reference_mismatch(
                    f"the layer of state {self._layer} was predicted from a reference with that "
                    "layer, and this one has not"
                )
            if self._predicted:
                self._read_share(exchange)
        if not self._predicted or not self._share:
            return
        here = grid.padded[phase]
        guess = np.where(grid.known[phase], self._changed, self._before)
        count = guess[here[:, None] + grid.around].sum(1)
        layer = model.where[self._share - 1, self._layer - self._palette.finest_state, phase]
        odds = layer[self._before[here].astype(np.intp), count]
        if self._goal:
            self._wanted = self._goal_changes[here].view(np.uint8)
        if self._recorder is not None and self._recorder.wants("where"):
            name = f"where.{self._share}.{self._layer}.{phase}"
            inputs = np.stack([self._before[here], count], 1)
            changes = self._goal_changes[here, None]
            none = np.zeros((len(here), 1), np.intp)
            self._recorder(name, inputs, none, changes.astype(np.int32), changes)
        self._changed[here] = exchange(odds) != 0

    def _read_share(self, exchange: Exchange) -> None:
        """Tell how much of the picture changes in this layer: 0 to 3, see :data:`SHARES`."""
        if self._goal:
            self._find_changes()
            share = self._goal_changes.sum() / self._grid.cells
            number = int(share > 0) + sum(share > most for most in SHARES)
            self._wanted = np.array([number >> 1, number & 1], np.uint8)
        high, low = exchange(np.array([_EVEN, _EVEN], np.uint16)).tolist()
        self._share = 2 * high + low

    def _find_changes(self) -> None:
        assert self._layer is not None
        changes = np.zeros(self._grid.size, np.bool_)
        rows = changes[self._grid.every]
        for plane, depth in self._palette.told(self._layer):
            goal = self._goal[plane]
            before = goal[depth - 1] if depth else None
            expected = self._expected(plane, depth, self._grid.every, before)
            rows |= (goal[depth] != expected).any(1)
        changes[self._grid.every] = rows
        self._goal_changes = changes

    def _expected(self, plane: str, depth: int, cells: Places, before: Integers | None) -> Integers:
        """What the reference makes expect of values at depth + 1; before: those at depth."""
        there = self._reference[plane][depth][cells]
        if before is None:
            return there
        nearest: Integers = there.clip(*self._palette.below(before, 1))
        return nearest

    def _changes(self, plane: str, depth: int, exchange: Exchange) -> None:
        """Tell a plane's next depth at the positions where anything changes."""
        grid, columns = self._grid, self._columns[plane]
        cells = grid.every
        before = self._values[cells, columns] if depth else None
        values = self._expected(plane, depth, cells, before)
        flags = self._changed[cells]
        if flags.any():
            rows = np.flatnonzero(flags)
            here, expected = cells[rows], values[rows]
            name = f"predicted.{plane}.{depth}"
            inputs = self._changed_inputs(name, plane, depth, here, expected, before, rows)
            own = self._told_apart(expected, None if before is None else before[rows])
            classes = None
            if self._classifies(name):
                moved = self._away[here, columns]
                count = self._changed[here[:, None] + grid.around].sum(1)
                classes = changed_classes(own, moved, count)
            goal = self._goal[plane][depth][rows] if self._goal else None
            values[rows] = self._told(
                name,
                Seen(classes, inputs),
                expected,
                None if before is None else before[rows],
                goal,
                self._limits(plane, depth),
                exchange,
            )
        self._values[cells, columns] = values
        self._seen[cells, columns] = self._shown(plane, values)
        self._away[cells, columns] = self._bend(values - self._reference[plane][depth][cells])
        self._known[plane] = depth + 1

    def _changed_inputs(
        self,
        name: str,
        plane: str,
        depth: int,
        here: Places,
        expected: Integers,
        before: Integers | None,
        rows: Places,
    ) -> NumberArray:
        grid = self._grid
        near = here[:, None] + grid.around
        flags = self._changed[near].astype(self._seen.dtype) * FLAG
        activity = np.abs(self._away).sum(1)
        around = np.minimum(activity[near], INPUT_LIMIT)
        own = self._told_apart(expected, None if before is None else before[rows])
        # Where the depth before was not what was expected, this one's expectation says little.
        moved = self._away[here, self._columns[plane]]
        parts = [self._away[here], self._bend(own), np.abs(moved), flags, around]
        narrow = sum(part.shape[1] for part in parts)
        if self._evaluators[name].inputs != narrow:
            beside = here[:, None] + grid.cross[1:]
            there = self._reference[plane][depth]
            slopes = self._bend(there[beside] - there[here, None])
            parts += [self._seen[here], slopes.reshape(len(here), -1)]
        return np.concatenate(parts, axis=1)

    # -- key frames -------------------------------------------------------------------------------

    def _fresh(self, plane: str, depth: int, phase: int, exchange: Exchange) -> None:
        """Tell a plane's next depth at the positions of a phase, without a reference."""
        name = f"key.{plane}.{depth}"
        grid, columns = self._grid, self._columns[plane]
        here = grid.padded[phase]
        before = self._values[here, columns] if depth else None
        if phase == 0:
            # Cells that are not told yet hold nothing of the new depth.
            shape = (grid.size, columns.stop - columns.start)
            self._next_values = np.zeros(shape, np.int32)
            self._next_seen = np.zeros(shape, self._seen.dtype)
            if self._classifies(name):
                self._sizes = np.abs(self._values[:, columns])
                self._sizes_around = summed(self._sizes, grid.every, grid.around)
            if not self._records(name):
                told = np.zeros(self._seen.shape[1], np.bool_)
                for one, places in self._columns.items():
                    told[places] = self._known[one] > 0
                self._crossed = crossing(self._seen, told, grid, self._evaluators[name].enter)
        near = here[:, None] + grid.around
        if before is None:
            known = grid.known[phase][near]
            total = self._next_values[near].sum(1)
            count = np.maximum(known.sum(1), 1)[:, None].astype(np.int32)
            expected = (2 * total + count) // (2 * count)
        else:
            expected = 3 * before
        goal = None
        if self._goal:
            goal = self._goal[plane][depth][grid.positions[phase]]
        classes = None
        if self._classifies(name):
            around = None
            if phase:
                around = summed(np.abs(self._next_values), here, grid.around[grid.told[phase]])
            before_around = self._sizes_around[grid.positions[phase]]
            classes = fresh_classes(self._sizes[here], before_around, around)
        own = self._shown(plane, expected) if before is None else None
        if self._records(name):
            inputs = fresh_inputs(self._seen, self._next_seen, grid, here, own)
            seen = Seen(classes, inputs)
        else:
            sums = self._crossed[grid.positions[phase]]
            enter = self._evaluators[name].enter[len(grid.cross) * self._seen.shape[1] :]
            add_fresh(sums, self._next_seen, grid, phase, own, enter)
            seen = Seen(classes, sums=sums)
        values = self._told(
            name,
            seen,
            expected,
            before,
            goal,
            self._limits(plane, depth),
            exchange,
        )
        self._next_values[here] = values
        self._next_seen[here] = self._shown(plane, values)
        self._values[here, columns] = values
        self._fresh_phases[plane] = phase + 1
        if phase == self._palette.phases - 1:
            self._seen[:, columns] = self._next_seen
            self._known[plane] = depth + 1
            del self._fresh_phases[plane]

    # -- both -------------------------------------------------------------------------------------

    def _classifies(self, name: str) -> bool:
        """Whether it matters to anyone of which classes a network's channels are."""
        return self._records(name) or self._evaluators[name].classifies

    def _records(self, name: str) -> bool:
        return self._recorder is not None and self._recorder.wants(name)

    def _limits(self, plane: str, depth: int) -> Integers:
        return self._palette.planes[plane].limits_at(depth + 1)

    def _told_apart(self, values: Integers, before: Integers | None) -> Integers:
        """Values by which of those that are left they are; before: at the depth before."""
        return values if before is None else values - 3 * before

    def _shown(self, plane: str, values: Integers) -> NumberArray:
        """What networks see of a plane's values where those tell of others."""
        return self._bend(values)

    def _bend(self, values: Integers) -> NumberArray:
        bent: NumberArray = self._bent[values.clip(-BENT_LIMIT, BENT_LIMIT) + BENT_LIMIT]
        return bent

    def _told(
        self,
        name: str,
        seen: Seen,
        expected: Integers,
        before: Integers | None,
        goal: Integers | None,
        limits: Integers,
        exchange: Exchange,
    ) -> Integers:
        """Values [n, C], told by their differences from what is expected of them."""
        if self._records(name):
            assert goal is not None
            self._record(name, seen, goal, expected, before)
        odds = self._odds(name, seen)
        away = None if goal is None else (goal - expected).reshape(-1)
        differs, above, more, further = odds.reshape(4, -1)
        values = expected.reshape(-1).copy()
        bits = self._exchanged(exchange, differs, None if away is None else away != 0)
        rows = np.flatnonzero(bits)
        if not len(rows):
            return values.reshape(expected.shape)
        if before is not None:
            return self._third(values, rows, above[rows], before, goal, exchange).reshape(
                expected.shape
            )
        left = None if away is None else away[rows]
        up = self._exchanged(exchange, above[rows], None if left is None else left > 0)
        size = np.ones(len(rows), np.int32)
        rest = np.arange(len(rows))
        odds_of, most = more[rows], 2 * int(limits.max()) + 1
        for times in range(1, most + 1):
            wanted = None if left is None else np.abs(left[rest]) > times
            told = self._exchanged(exchange, odds_of, wanted)
            rest = rest[told != 0]
            if not len(rest):
                break
            size[rest] += 1
            odds_of = further[rows[rest]]
        values[rows] += np.where(up, size, -size)
        values = values.reshape(expected.shape)
        if (np.abs(values) > limits).any():
            raise BitstreamError("bad_payload", "a value is beyond its channel's limit")
        return values

    def _odds(self, name: str, seen: Seen) -> npt.NDArray[np.uint16]:
        """P(bit = 1) * 2**16 by a network: uint16 [4, n, C]."""
        evaluator = self._evaluators[name]
        if seen.inputs is not None:
            places = evaluator(seen.inputs, seen.classes)
        else:
            assert seen.sums is not None
            places = evaluator.of_sums(seen.sums, seen.classes)
        return self._model.odds.take(places)

    def _record(
        self,
        name: str,
        seen: Seen,
        goal: Integers,
        expected: Integers,
        before: Integers | None,
    ) -> None:
        assert self._recorder is not None
        away = goal - expected
        above = away > 0
        if before is not None:
            above = goal == _upper(expected, 3 * before)
            away = (away != 0).astype(np.int32)
        assert seen.inputs is not None
        self._recorder(name, seen.inputs, seen.classes, np.abs(away), above)

    def _third(
        self,
        values: Integers,
        rows: Places,
        above: npt.NDArray[np.uint16],
        before: Integers,
        goal: Integers | None,
        exchange: Exchange,
    ) -> Integers:
        """Of the three values that are left two are not the expected one: tell which."""
        middle = 3 * before.reshape(-1)[rows]
        expected = values[rows]
        lower = np.where(expected == middle - 1, middle, middle - 1)
        upper = _upper(expected, middle)
        wanted = None if goal is None else goal.reshape(-1)[rows] == upper
        up = self._exchanged(exchange, above, wanted)
        values[rows] = np.where(up, upper, lower)
        return values

    def _exchanged(
        self, exchange: Exchange, odds: npt.NDArray[np.uint16], wanted: npt.NDArray[np.bool_] | None
    ) -> Bits:
        self._wanted = None if wanted is None else wanted.view(np.uint8)
        return exchange(odds)


def _upper(expected: Integers, middle: Integers) -> Integers:
    """The greatest of three values that is not the expected one."""
    return np.where(expected == middle + 1, middle, middle + 1)
