"""What a stream's encoder makes of sequences: each frame's leaves, and those of the one before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from codec.base import FloatArray
from codec.markov_palette.context_network import PASSES, PlaneNetwork, padded_channels
from codec.markov_palette.contexts import ContextModel, Probabilities
from codec.markov_palette.palette import Indices, MarkovPalette
from codec.markov_palette.temporal.assignment import Follower, FollowingLeaves
from codec.markov_palette.temporal.change_network import ChangeNetwork, layers_of
from codec.markov_palette.temporal.contexts import (
    STATUS_COLUMNS,
    Bits,
    Changes,
    Part,
    PredictedContexts,
    Still,
    TemporalModel,
    inputs_of,
)

Sequences = Sequence[Mapping[str, FloatArray]]
"""Of each piece float32 [frames, C, h, w] a scale."""
_FIRST_CHANGE: Final = (7.0, 5.0, 4.0, 3.0, 2.5, 2.0, 1.5, 1.2, 1.0)
_FIRST_KEEP: Final = (0.01, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)


class Transition(NamedTuple):
    """Leaves of a frame and of its reference: int32 [h, w] a plane; coded to ``state``."""

    before: Indices
    after: Indices
    state: int


def plain_temporal(contexts: ContextModel) -> TemporalModel:
    """Predicted frames without any knowledge: even odds, and costs that are a first guess."""
    palette = contexts.palette
    columns = {plane.name: padded_channels(plane.channels) for plane in palette.planes}
    splits, changes = {}, {}
    for plane in palette.planes:
        name, tree = plane.name, palette.trees[plane.name]
        layers = len(layers_of(palette, name))
        beside = sum(columns[mate] for mate in contexts.mates[name])
        splits[name] = PlaneNetwork.constant(
            tree,
            np.zeros(2**tree.depth - 1, np.int32),
            mates=beside + columns[name] + STATUS_COLUMNS,
        )
        groups, nodes = PASSES * layers, 2 ** (tree.depth + 1) - 1
        costs = np.array([_FIRST_KEEP, _FIRST_CHANGE], np.float32)
        changes[name] = ChangeNetwork(
            weights=np.zeros((groups, inputs_of(contexts, name), 1), np.int16),
            entry=np.zeros((nodes, 1), np.int32),
            readout=np.zeros((groups, 1), np.int16),
            bias=np.zeros(groups, np.int32),
            prior=np.zeros(nodes, np.int32),
            still=np.full(layers, 1 << 15, np.uint16),
            shifts=np.zeros((2, groups), np.int32),
            costs=np.repeat(costs[:, None], layers, 1),
        )
    return TemporalModel(contexts, splits, changes)


def transitions(
    model: TemporalModel, sequences: Sequences, states: Sequence[int], seed: int
) -> list[Transition]:
    """Streams of all pieces, each coded to a state that is drawn from ``states``.

    The first frame of a piece is a key frame; each later one is chosen given what the one before
    was decoded to.
    """
    rng = np.random.default_rng(seed)
    follower, palette = Follower(model), model.palette
    found: list[Transition] = []
    for piece in sequences:
        state = int(rng.choice(list(states)))
        frames = [
            {name: grids[number].astype(np.float32) for name, grids in piece.items()}
            for number in range(len(next(iter(piece.values()))))
        ]
        before = palette.encode(frames[0])
        for features in frames[1:]:
            known = palette.merge(before, palette.finest_state, state)
            after = follower.leaves(features, known, state, state)
            found.append(Transition(before, after, state))
            before = after
    return found


class ChangeSamples(NamedTuple):
    """Flags of one plane's layer and pass: uint8 [n, inputs], the reference's node [n], 0 or 1 [n],
    and how often it came [n]."""

    inputs: npt.NDArray[np.uint8]
    nodes: npt.NDArray[np.int32]
    changed: npt.NDArray[np.float32]
    weights: npt.NDArray[np.float32]


class _Recorder(PredictedContexts):
    """Contexts that give no odds, and note what they would be asked to tell from what."""

    noted: list[tuple[Part, npt.NDArray[np.uint8], npt.NDArray[np.int32]]]

    def _models(self, part: Part) -> Probabilities:
        if isinstance(part, Changes):
            positions = self._asked(part)
            layer = self._model.layers[part.plane][part.layer]
            nodes = self.followed[part.plane].at(layer.after)[positions]
            self.noted.append((part, self._inputs(part, positions), nodes))
        return np.empty(0, np.uint16)


def flags(model: TemporalModel, transition: Transition) -> Iterator[tuple[Part, ChangeSamples]]:
    """What a transition tells of changes, part by part; and of whole planes (``Still``)."""
    palette, state = model.palette, transition.state
    shapes = {name: grid.shape for name, grid in transition.after.items()}
    reference = palette.merge(transition.before, palette.finest_state, state)
    contexts = _Recorder(model, shapes, reference, state, np.float32)
    contexts.noted = []
    source = FollowingLeaves(model, transition.after)
    told: list[tuple[Part, Bits]] = []
    for here in range(palette.coarsest_state, state - 1, -1):

        def exchange(models: Probabilities, here: int = here) -> Bits:
            symbols = source(here, contexts, None, models)
            told.append((contexts.part, symbols))
            return symbols

        for step in palette.passes(here):
            contexts.run(here, step, exchange)
    asked = iter(contexts.noted)
    for part, symbols in told:
        if isinstance(part, Changes):
            _, inputs, nodes = next(asked)
            flagged = symbols.astype(np.float32)
            yield part, ChangeSamples(inputs, nodes, flagged, np.ones(len(nodes), np.float32))
        elif isinstance(part, Still):
            nothing = np.zeros((0, 0), np.uint8), np.zeros(0, np.int32)
            yield part, ChangeSamples(*nothing, symbols.astype(np.float32), np.ones(1, np.float32))


def change_costs(
    palette: MarkovPalette, moves: Sequence[Transition], plane: str
) -> npt.NDArray[np.float32]:
    """Bits of a plane's flags by how many of the eight neighbours change: float32 [2, layers, 9].

    By frequency, each count having half of one of both kinds more than were seen.
    """
    layers, depth = layers_of(palette, plane), palette.trees[plane].depth
    seen = np.full((2, len(layers), 9), 0.5)
    for move in moves:
        before, after = move.before[plane], move.after[plane]
        coded = palette.depths(move.state)[plane]
        if not coded:
            continue
        changes = before >> (depth - coded) != after >> (depth - coded)
        padded = np.pad(changes, 1).astype(np.intp)
        rows = padded[:-2] + padded[1:-1] + padded[2:]
        counts = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:] - changes
        for number, layer in enumerate(layers):
            if layer.after > coded:
                break
            follows = before >> (depth - layer.before) == after >> (depth - layer.before)
            leaves = before >> (depth - layer.after) != after >> (depth - layer.after)
            for leaving in (0, 1):
                here = follows & (leaves == bool(leaving))
                seen[leaving, number] += np.bincount(counts[here], minlength=9)
    found: npt.NDArray[np.float32] = -np.log2(seen / seen.sum(0)).astype(np.float32)
    return found
