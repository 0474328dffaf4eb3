"""The odds of a predicted frame's symbols, from its reference and what both ends know so far.

Networks of splits are :class:`~codec.markov_palette.context_network.PlaneNetwork`, which see two
planes more than those of key frames do, as if they were planes of the same scale: the colours of
the reference's nodes at the depth at which the layer ends; and whether a position left its
reference's path before the layer, leaves it in the layer, and is still on it (64 each).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from codec.exact import UNIT, NumberArray
from codec.markov_palette.context_network import (
    COARSE_STEPS,
    MATE_STEPS,
    NEAREST,
    OWN_STEPS,
    PASSES,
    PlaneNetwork,
    padded_channels,
)
from codec.markov_palette.contexts import (
    ContextModel,
    Grid,
    PictureContexts,
    PlaneEvaluator,
    PlaneState,
    PreparedNetwork,
    Probabilities,
)
from codec.markov_palette.palette import IndexArray, Indices, Pass
from codec.markov_palette.temporal.change_network import (
    COARSE_INPUTS,
    MATE_INPUTS,
    OWN_INPUTS,
    ChangeNetwork,
    ChangeOdds,
    PlaneLayer,
    layers_of,
    left_at,
)
from codec.standalone import reference_mismatch
from shared.errors import BundleError

PREFIX: Final = "temporal."
"""Of the names of contexts.npz's arrays that predicted frames need."""
STATUS_COLUMNS: Final = padded_channels(3)
_ALONE: Final = 1 << 12
"""The chance times 2**16 that a layer is coded without the reference."""

Bits = npt.NDArray[np.uint8]


class Alone(NamedTuple):
    """A symbol: 1 where layers from ``state`` on are coded without the reference."""

    state: int


class Still(NamedTuple):
    """A symbol: 1 where none of a plane's positions that have followed the reference changes."""

    plane: str
    layer: int


class Changes(NamedTuple):
    """Symbols: 1 where a position of ``side`` that has followed the reference changes."""

    plane: str
    layer: int
    side: int


Part = Alone | Still | Changes | Pass


class TemporalModel:
    """What a bundle knows of predicted frames. Holds no per-picture state."""

    def __init__(
        self,
        contexts: ContextModel,
        splits: Mapping[str, PlaneNetwork],
        changes: Mapping[str, ChangeNetwork],
    ) -> None:
        """contexts: of key frames. Raises BundleError ``bad_contexts``."""
        self.contexts, self.palette = contexts, contexts.palette
        names = [plane.name for plane in self.palette.planes]
        self.splits = {name: splits[name] for name in names}
        self.changes = {name: changes[name] for name in names}
        self.layers = {name: layers_of(self.palette, name) for name in names}
        for name in names:
            self._check(name)
        self._fast = self._prepare(np.float32)

    @classmethod
    def from_arrays(
        cls, contexts: ContextModel, arrays: Mapping[str, npt.NDArray[np.generic]]
    ) -> TemporalModel | None:
        """Read contexts.npz's arrays; None where it has none. Raises BundleError."""
        names = [plane.name for plane in contexts.palette.planes]
        if not any(key.startswith(f"{PREFIX}{name}.") for key in arrays for name in names):
            return None
        return cls(
            contexts,
            {name: PlaneNetwork.from_arrays(f"{PREFIX}{name}", arrays) for name in names},
            {name: ChangeNetwork.from_arrays(f"{PREFIX}{name}.change_", arrays) for name in names},
        )

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """What contexts.npz holds of it."""
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for name, network in self.splits.items():
            arrays |= network.to_arrays(PREFIX + name)
            arrays |= self.changes[name].to_arrays(f"{PREFIX}{name}.change_")
        return arrays

    def open(
        self,
        shapes: Mapping[str, tuple[int, ...]],
        reference: Indices,
        state: int,
        dtype: type[np.generic] = np.float32,
    ) -> PredictedContexts:
        """Begin a picture. reference: nodes [h, w] a plane, at ``state``; dtype: as
        :meth:`codec.markov_palette.contexts.ContextModel.open`."""
        return PredictedContexts(self, shapes, reference, state, dtype)

    def prepared(
        self, dtype: type[np.generic]
    ) -> tuple[dict[str, PreparedNetwork], dict[str, ChangeOdds]]:
        """The networks in the type of number that they are evaluated in."""
        return self._fast if dtype is np.float32 else self._prepare(dtype)

    def _prepare(
        self, dtype: type[np.generic]
    ) -> tuple[dict[str, PreparedNetwork], dict[str, ChangeOdds]]:
        trees = self.palette.trees
        return (
            {name: PreparedNetwork(part, trees[name], dtype) for name, part in self.splits.items()},
            {
                name: ChangeOdds(part, self.layers[name], dtype)
                for name, part in self.changes.items()
            },
        )

    def _check(self, name: str) -> None:
        model, network, change = self.contexts, self.splits[name], self.changes[name]
        columns = {p.name: padded_channels(p.channels) for p in self.palette.planes}
        beside = columns[name] + STATUS_COLUMNS + sum(columns[m] for m in model.mates[name])
        above = len(COARSE_STEPS) * sum(columns[other] for other in model.coarser[name])
        nodes = 2 ** (self.palette.trees[name].depth + 1) - 1
        if (
            network.depth != self.palette.trees[name].depth
            or network.own.shape[1] != len(OWN_STEPS) * columns[name]
            or network.mates.shape[1] != len(MATE_STEPS) * beside
            or (network.trunk is not None and network.trunk.weights.shape[0] != above)
            or change.weights.shape[:2] != (PASSES * len(self.layers[name]), inputs_of(model, name))
            or len(change.entry) != nodes
        ):
            raise BundleError(
                "bad_contexts", f"predicted frames: networks of plane {name} fit another palette"
            )


def inputs_of(model: ContextModel, plane: str) -> int:
    """Inputs of a plane's :class:`ChangeNetwork`."""
    mates, coarser = len(model.mates[plane]), len(model.coarser[plane])
    return OWN_INPUTS + MATE_INPUTS * mates + COARSE_INPUTS * coarser


class _Followed:
    """A plane of the reference, and where the picture has left it; arrays lie on padded grids."""

    def __init__(
        self, state: PlaneState, nodes: IndexArray, depth: int, colours: NumberArray
    ) -> None:
        """nodes: flat [n] at ``depth``. colours: as
        :func:`codec.markov_palette.contexts.heap_colours` gives them."""
        grid = state.grid
        self.state, self.nodes, self.depth = state, nodes, depth
        self.left, self.leaving, self.follows = np.zeros((3, grid.size), bool)
        self.reference = _ReferenceColours(np.full(grid.size, len(colours) - 1), colours)
        self.status = _Status([self.left, self.leaving, self.follows], colours.dtype)
        self.level = np.zeros(grid.size, np.uint8)
        self._level_at = 0
        self.still = False
        self.gone: list[npt.NDArray[np.intp]] = [np.empty(0, np.intp)] * PASSES

    def at(self, depth: int) -> IndexArray:
        """The reference's nodes at a depth: flat [n]."""
        found: IndexArray = self.nodes >> (self.depth - depth)
        return found

    def begin(self, layer: PlaneLayer) -> None:
        """A layer begins, before which everything is known."""
        if layer.before:
            self.left[self.state.grid.padded] = self.state.nodes != self.at(layer.before)
        self.leaving[:] = False
        self.still = False

    def known(self, layer: PlaneLayer) -> None:
        """It is known which positions change in the layer."""
        gone, grid = self.left | self.leaving, self.state.grid
        self.gone = [np.flatnonzero(gone[sides]) for sides in grid.sides]
        if any(map(len, self.gone)):
            self.reference.rows[grid.padded] = self.at(layer.after) + (2**layer.after - 1)
            self.follows[grid.padded] = ~self.left[grid.padded]

    def split(self, depth: int, side: int) -> None:
        """A pass of nodes has been split, from ``depth`` on."""
        grid = self.state.grid
        positions = grid.positions[side]
        nodes, before = self.state.nodes[positions], self.at(depth + 1)[positions]
        self.follows[grid.sides[side]] = nodes == before

    def levels(self) -> npt.NDArray[np.uint8]:
        """How early the path was left, as far as the plane is known: [padded grid]."""
        depth = self.state.known[1]
        if self._level_at != depth:
            self._level_at = depth
            apart = self.state.nodes ^ self.at(depth)
            away = np.flatnonzero(apart)
            padded = self.state.grid.padded
            self.level[padded] = 0
            self.level[padded[away]] = left_at(depth - _bit_length(apart[away]))
        return self.level


class _ReferenceColours:
    """Colours of the reference's nodes, seen as a plane of the scale."""

    def __init__(self, rows: npt.NDArray[np.intp], colours: NumberArray) -> None:
        self.rows, self._colours = rows, colours

    def around(self, where: npt.NDArray[np.int64]) -> NumberArray:
        """See :meth:`codec.markov_palette.contexts.Shown.around`."""
        return self._colours.take(self.rows.take(where), axis=0)


class _Status:
    """What is known of positions' paths, seen as a plane of the scale."""

    def __init__(self, flags: list[npt.NDArray[np.bool_]], dtype: np.dtype[Any]) -> None:
        self._flags, self._dtype = flags, dtype

    def around(self, where: npt.NDArray[np.int64]) -> NumberArray:
        """See :meth:`codec.markov_palette.contexts.Shown.around`."""
        found = np.zeros((*where.shape, STATUS_COLUMNS), self._dtype)
        for column, flags in enumerate(self._flags):
            found[..., column] = flags.take(where)
        found *= self._dtype.type(UNIT)
        return found


class PredictedContexts(PictureContexts):
    """Contexts that follow a reference; symbols are asked for part by part.

    Layers that are coded alone are those of :class:`PictureContexts`.
    """

    def __init__(
        self,
        model: TemporalModel,
        shapes: Mapping[str, tuple[int, ...]],
        reference: Indices,
        state: int,
        dtype: type[np.generic],
    ) -> None:
        """Use :meth:`TemporalModel.open`."""
        super().__init__(model.contexts, shapes, dtype)
        self.reference_state, self.alone = state, False
        self.part: Part = Alone(state)
        self._model, self._palette = model, model.palette
        splits, self._changes = model.prepared(dtype)
        depths = self._palette.depths(state)
        self.followed = {
            name: _Followed(
                self.planes[name], reference[name].reshape(-1), depths[name], splits[name].colours
            )
            for name in splits
        }
        mates, coarser = model.contexts.mates, model.contexts.coarser
        self._splitters = {
            name: PlaneEvaluator(
                part,
                self.planes[name],
                [
                    *(self.planes[mate] for mate in mates[name]),
                    self.followed[name].reference,
                    self.followed[name].status,
                ],
                [self.planes[other] for other in coarser[name]],
            )
            for name, part in splits.items()
        }
        self._mates, self._coarser = mates, coarser

    def run(self, state: int, step: Pass, exchange: Callable[[Probabilities], Bits]) -> None:
        """Tell a pass of the layer that leads to ``state``, and before the first of a layer or a
        plane what comes before it. exchange: see :meth:`codec.layered.ChainCodec._run`; it finds
        in ``part`` what is asked for."""
        for part in self._parts(state, step):
            self.part = part
            self._tell(part, exchange(self._models(part)))

    def _parts(self, state: int, step: Pass) -> Iterator[Part]:
        """What comes depends on what was told, so each is told before the next is asked for."""
        steps = self._palette.passes(state)
        if step == steps[0] and not self.alone:
            yield Alone(state)
        if not self.alone and step == next(one for one in steps if one.plane == step.plane):
            layer = self._number(step.plane, state)
            followed = self.followed[step.plane]
            followed.begin(self._model.layers[step.plane][layer])
            if not followed.left[followed.state.grid.padded].all():
                yield Still(step.plane, layer)
            if not followed.still:
                for side in range(PASSES):
                    yield Changes(step.plane, layer, side)
            followed.known(self._model.layers[step.plane][layer])
        yield step

    def repeats(self, state: int) -> Iterator[tuple[Pass, IndexArray]]:
        """The passes of a layer in which the reference is repeated, and its nodes after each."""
        for step in self._palette.passes(state):
            yield step, self.followed[step.plane].at(step.depth + 1)

    def check_reference(self, state: int) -> None:
        """Raise BitstreamError ``reference_mismatch`` where the reference is coarser."""
        if self.reference_state > state:
            raise reference_mismatch(
                f"predicted to state {state}, and its reference was decoded to state "
                f"{self.reference_state} only"
            )

    def follow(self, state: int) -> None:
        """Repeat the reference in the layer that leads to ``state``."""
        for step, nodes in self.repeats(state):
            here = self.planes[step.plane]
            self.advance(*step, (nodes[here.grid.positions[step.side]] & 1).astype(np.uint8))

    def follows(self, state: int) -> bool:
        """Whether all positions have followed the reference up to the layer that leads to
        ``state``; where one has not no layer can repeat it."""
        for plane in {step.plane for step in self._palette.passes(state)}:
            here, followed = self.planes[plane], self.followed[plane]
            if not np.array_equal(here.nodes, followed.at(here.known[1])):
                return False
        return True

    def _models(self, part: Part) -> Probabilities:
        """P(1) * 2**16 of a part's symbols: uint16 [n]."""
        table = self._odds
        if isinstance(part, Alone):
            return np.array([_ALONE], np.uint16)
        if isinstance(part, Still):
            return self._model.changes[part.plane].still[part.layer : part.layer + 1]
        if isinstance(part, Changes):
            positions = self._asked(part)
            layer = self._model.layers[part.plane][part.layer]
            nodes = self.followed[part.plane].at(layer.after)[positions]
            busy = np.flatnonzero(self._busy(part)[positions])
            inputs = self._inputs(part, positions[busy])
            return table[self._changes[part.plane].odds(part.layer, part.side, nodes, busy, inputs)]
        if self.alone:
            return self.probabilities(*part)
        self.planes[part.plane].check(part.depth, part.side)
        return table[self._splitters[part.plane].odds(part.depth, part.side, self._coded(part))]

    def _tell(self, part: Part, symbols: Bits) -> None:
        """Learn a part's symbols: uint8 [n]."""
        if isinstance(part, Alone):
            self.alone = bool(symbols[0])
            if not self.alone:
                self.check_reference(part.state)
        elif isinstance(part, Still):
            self.followed[part.plane].still = bool(symbols[0])
        elif isinstance(part, Changes):
            followed = self.followed[part.plane]
            positions = self._asked(part)
            followed.leaving[followed.state.grid.padded[positions]] = symbols.astype(bool)
        elif self.alone:
            self.advance(*part, symbols)
        else:
            self._split(part, symbols)

    def asked(self, part: Part) -> npt.NDArray[np.intp]:
        """Positions (flat) whose symbols a part has; none of those that are for a whole plane."""
        if isinstance(part, Changes):
            return self._asked(part)
        if not isinstance(part, Pass):
            return np.empty(0, np.intp)
        positions = self.planes[part.plane].grid.positions[part.side]
        return positions if self.alone else positions[self._coded(part)]

    def _number(self, plane: str, state: int) -> int:
        return next(
            number for number, layer in enumerate(self._model.layers[plane]) if layer.state == state
        )

    def _asked(self, part: Changes) -> npt.NDArray[np.intp]:
        followed = self.followed[part.plane]
        grid = followed.state.grid
        stayed = ~followed.left[grid.sides[part.side]]
        asked: npt.NDArray[np.intp] = grid.positions[part.side][stayed]
        return asked

    def _coded(self, step: Pass) -> npt.NDArray[np.intp]:
        """Of a pass's positions those whose bits are neither the reference's nor known."""
        followed = self.followed[step.plane]
        gone = followed.gone[step.side]
        if len(gone) and self._last(step):
            # What has to leave the path and has not can only do so now.
            gone = gone[~followed.follows[followed.state.grid.sides[step.side][gone]]]
        return gone

    def _last(self, step: Pass) -> bool:
        layers = self._model.layers[step.plane]
        return any(layer.after == step.depth + 1 for layer in layers)

    def _split(self, step: Pass, symbols: Bits) -> None:
        followed = self.followed[step.plane]
        grid, gone = followed.state.grid, followed.gone[step.side]
        bits = (followed.at(step.depth + 1)[grid.positions[step.side]] & 1).astype(np.uint8)
        if len(gone):
            coded = self._coded(step)
            if symbols.shape != coded.shape or symbols.max(initial=0) > 1:
                raise ValueError(f"a pass of {len(coded)} takes as many bits")
            bits[gone] ^= 1  # of those that are not coded
            bits[coded] = symbols
        self.advance(*step, bits)
        if any(map(len, followed.gone)):
            followed.split(step.depth, step.side)

    def _busy(self, part: Changes) -> npt.NDArray[np.bool_]:
        """Where an input of a flag can be other than 0: flat [n]."""
        followed = self.followed[part.plane]
        grid = followed.state.grid
        near = followed.left | followed.leaving
        for mate in self._mates[part.plane]:
            near = near | (self.followed[mate].levels() != 0)
        busy: npt.NDArray[np.bool_] = _spread(near, grid)[grid.padded]
        coarser = self._coarser[part.plane]
        if coarser:
            above = self.planes[coarser[0]].grid
            near = np.zeros(above.size, bool)
            for other in coarser:
                near |= self.followed[other].levels() != 0
            wide = _spread(near, above)[above.padded].reshape(above.shape)
            ratio = grid.shape[0] // above.shape[0]
            busy |= wide.repeat(ratio, 0).repeat(ratio, 1).reshape(-1)
        return busy

    def _inputs(self, part: Changes, positions: npt.NDArray[np.intp]) -> npt.NDArray[np.uint8]:
        followed = self.followed[part.plane]
        grid = followed.state.grid
        where = grid.padded[positions][:, None]
        rows = [
            followed.left.take(where + grid.steps(OWN_STEPS)).view(np.uint8) * np.uint8(UNIT),
            followed.leaving.take(where + grid.steps(NEAREST)).view(np.uint8) * np.uint8(UNIT),
        ]
        rows += [
            self.followed[mate].levels().take(where + grid.steps(MATE_STEPS))
            for mate in self._mates[part.plane]
        ]
        coarser = self._coarser[part.plane]
        if coarser:
            parents = parents_of(grid, self.planes[coarser[0]].grid)[positions]
            rows += [self.followed[other].levels().take(parents) for other in coarser]
        return np.concatenate(rows, 1)


def _spread(flags: npt.NDArray[np.bool_], grid: Grid) -> npt.NDArray[np.bool_]:
    """Flags of the padded grid, set where one of the eight neighbours is."""
    across = flags.copy()
    across[1:] |= flags[:-1]
    across[:-1] |= flags[1:]
    found = across.copy()
    found[grid.stride :] |= across[: -grid.stride]
    found[: -grid.stride] |= across[grid.stride :]
    return found


@lru_cache(maxsize=16)
def parents_of(fine: Grid, coarse: Grid) -> npt.NDArray[np.intp]:
    """Of every position the four of the coarser grid around it, on the padded grid: [n, 4]; the
    nearest first."""
    ratio = fine.shape[0] // coarse.shape[0]
    rows, columns = np.divmod(np.arange(fine.shape[0] * fine.shape[1]), fine.shape[1])
    down = np.where(2 * (rows % ratio) < ratio, -1, 1) * coarse.stride
    across = np.where(2 * (columns % ratio) < ratio, -1, 1)
    here: npt.NDArray[np.intp] = (rows // ratio + 1) * coarse.stride + columns // ratio + 1
    return np.stack([here, here + down, here + across, here + down + across], 1)


def _bit_length(values: IndexArray) -> npt.NDArray[np.intp]:
    """Bits of non-negative integers below 2**15."""
    return np.asarray(_LENGTHS.take(values), np.intp)


_LENGTHS: Final = np.array([number.bit_length() for number in range(1 << 12)], np.intp)
