"""Which leaves a predicted frame takes: error and bits weighed, given the reference's.

Of a position with the vector z, whose reference has the node r at the depth that is coded, it takes
the node k of least

    J(k) = |z - c_k|**2 + lambda * bits(k | r)

by a full search, where staying at r costs what the flags of every layer cost, and leaving r in a
layer those flags, one that says so, and the splits from there on by the static odds of the training
counts. What a flag costs depends on how many of the eight neighbours change; as these are decided
too, the choice between r and the best other node is made again with the counts that came out
(iterated conditional modes: Besag, "On the statistical analysis of dirty pictures", 1986). Most
positions of a still scene are so near r that nothing else is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from codec.areas.regions import States
from codec.latents import Features
from codec.layered import REPEAT
from codec.markov_palette.contexts import PictureContexts
from codec.markov_palette.palette import FloatArray, IndexArray, Indices, PaletteTree, Pass
from codec.markov_palette.temporal.contexts import (
    Alone,
    Bits,
    Changes,
    Part,
    PredictedContexts,
    Still,
    TemporalModel,
)

KEPT_BITS: Final = 3.0
"""Nothing else is looked at where the reference's error is less than so many bits are worth."""
KEEP: Final = 1.0
"""What a bit is worth in a predicted frame, to what it was worth at the last split that is coded
when the palette was made."""
_ROUNDS: Final = 2
_SEARCH_ROWS: Final = 4096
_FIRST_COUNT: Final = 1


class _Costs(NamedTuple):
    """Of nodes at one depth, squared errors: lambda times bits.

    splits: float32 [from, to], of what is left after a position has left its reference. layer: int
    [from, to], in which it does. change, keep: float32 [layers + 1, 9], of all flags up to such a
    layer by how many neighbours change; the last row of ``keep`` is that of staying.
    """

    splits: FloatArray
    layer: npt.NDArray[np.int8]
    change: FloatArray
    keep: FloatArray


class Follower:
    """Chooses leaves by a bundle's trees and what changes cost in it."""

    def __init__(self, model: TemporalModel) -> None:
        self._model, self._palette = model, model.palette
        self._costs: dict[tuple[str, int, float], _Costs] = {}

    def leaves(
        self,
        features: Features,
        reference: Indices,
        reference_state: int,
        state: int,
        *,
        rate_weight: float | None = None,
        states: Mapping[str, States] | None = None,
    ) -> Indices:
        """Leaf indices, int32 [h, w] a plane, of which those at ``state`` count.

        features: float32 [C, h, w] a scale. reference: nodes at ``reference_state``. rate_weight:
        lambda; None is what bits were worth when the palette was made. states: of each scale's
        positions, the finest that is wanted there; None is ``state`` everywhere.
        """
        palette = self._palette
        depths, known = palette.depths(state), palette.depths(reference_state)
        remaining: dict[str, FloatArray] = {}
        found: Indices = {}
        for plane in palette.planes:
            tree, name = palette.trees[plane.name], plane.name
            shape = features[plane.scale].shape[1:]
            if not depths[name]:
                found[name] = np.zeros(shape, np.int32)
                continue
            if plane.scale not in remaining:
                remaining[plane.scale] = palette.residual(features, plane.scale, found)
            vectors = palette.vectors(remaining, plane)
            depth = min(depths[name], known[name])
            before = reference[name].reshape(-1) >> (known[name] - depth)
            nodes = self._choose(name, tree, vectors, before, depth, shape, rate_weight)
            if depth == depths[name]:
                leaves = nodes << (tree.depth - depth)
            else:
                leaves = _below(tree, vectors, nodes, depth, rate_weight)
            if states is not None:
                wanted = self._wanted(name, states[plane.scale])
                leaves = _cheap_outside(tree, leaves, wanted, before, depth)
            found[name] = leaves.reshape(shape)
        return found

    def static_bits(self, leaves: Indices, state: int) -> float:
        """About what a key frame of the leaves takes, by the static odds."""
        total = 0.0
        for name, depth in self._palette.depths(state).items():
            tree = self._palette.trees[name]
            if depth:
                total += float(tree.static_bits()[depth][leaves[name] >> tree.depth - depth].sum())
        return total

    def _wanted(self, name: str, states: States) -> npt.NDArray[np.int32]:
        """The depth that is wanted at every position: int32 [n]."""
        coarsest = self._palette.coarsest_state
        depths = [self._palette.depths(state)[name] for state in range(coarsest + 1)]
        wanted: npt.NDArray[np.int32] = np.asarray(depths, np.int32)[
            np.minimum(states.reshape(-1), coarsest)
        ]
        return wanted

    def _choose(
        self,
        name: str,
        tree: PaletteTree,
        vectors: FloatArray,
        before: IndexArray,
        depth: int,
        shape: tuple[int, ...],
        rate_weight: float | None,
    ) -> IndexArray:
        """Nodes at ``depth``, int32 [n]; before: the reference's there."""
        if not depth:
            return np.zeros(len(vectors), np.int32)
        weight = rate_weight
        if weight is None:
            weight = KEEP * tree.rate_weights[depth - 1] if tree.rate_weights else 0.0
        costs = self._costs_of(name, tree, depth, weight)
        colours = tree.colours(depth)
        away = np.square(vectors - colours[before]).sum(1)
        near = away > weight * KEPT_BITS
        looked = np.flatnonzero(near)
        if not len(looked):
            return before
        other, left = _best_others(vectors[looked], before[looked], colours, costs)
        layer = costs.layer[before[looked], other]
        stays = away[looked]
        counts = np.full(len(looked), _FIRST_COUNT)
        changes = np.zeros(len(vectors), bool)
        for _ in range(1 + _ROUNDS):
            leaving = left + costs.change[layer, counts] < stays + costs.keep[-1, counts]
            if not leaving.any():
                return before
            changes[looked] = leaving
            counts = _neighbours(changes.reshape(shape)).reshape(-1)[looked]
        nodes = before.copy()
        nodes[looked[leaving]] = other[leaving]
        return nodes

    def _costs_of(self, name: str, tree: PaletteTree, depth: int, weight: float) -> _Costs:
        key = (name, depth, weight)
        if key not in self._costs:
            if len(self._costs) > 64:
                self._costs.clear()
            self._costs[key] = self._tabulate(name, tree, depth, np.float32(weight))
        return self._costs[key]

    def _tabulate(self, name: str, tree: PaletteTree, depth: int, weight: np.float32) -> _Costs:
        layers = [layer for layer in self._model.layers[name] if layer.after <= depth]
        kept, changed = self._model.changes[name].costs[:, : len(layers)]
        upto = np.concatenate([np.zeros((1, 9), np.float32), kept.cumsum(0)])
        static = tree.static_bits()
        nodes = np.arange(2**depth)
        apart = nodes[:, None] ^ nodes
        splits = np.zeros(apart.shape, np.float32)
        layer_of = np.full(apart.shape, len(layers), np.int8)
        for number, layer in enumerate(layers):
            # They part between the depths of the layer.
            here = (apart >> (depth - layer.before) == 0) & (apart >> (depth - layer.after) != 0)
            below = static[depth] - np.repeat(static[layer.before], 2 ** (depth - layer.before))
            splits[here] = np.broadcast_to(below, apart.shape)[here]
            layer_of[here] = number
        change = np.concatenate([upto[:-1] + changed, np.zeros((1, 9), np.float32)])
        return _Costs(weight * splits, layer_of, weight * change, weight * upto)


def _best_others(
    vectors: FloatArray, before: IndexArray, colours: FloatArray, costs: _Costs
) -> tuple[IndexArray, FloatArray]:
    """The best node other than the reference's, and what it costs but for flags: int32, float32."""
    norms = np.square(colours).sum(1)
    flags = costs.change[:, _FIRST_COUNT]
    other = np.empty(len(vectors), np.int32)
    left = np.empty(len(vectors), np.float32)
    for start in range(0, len(vectors), _SEARCH_ROWS):
        rows = slice(start, start + _SEARCH_ROWS)
        here, nodes = vectors[rows], before[rows]
        errors = norms - np.float32(2) * (here @ colours.T) + costs.splits[nodes]
        totals = errors + flags[costs.layer[nodes]]
        index = np.arange(len(here))
        totals[index, nodes] = np.inf
        best = totals.argmin(1)
        other[rows] = best
        left[rows] = errors[index, best] + np.square(here).sum(1)
    return other, left


def _neighbours(changes: npt.NDArray[np.bool_]) -> npt.NDArray[np.intp]:
    """How many of the eight neighbours are set: [h, w]."""
    padded = np.pad(changes, 1).astype(np.intp)
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    sums: npt.NDArray[np.intp] = rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]
    return sums - changes


def _below(
    tree: PaletteTree,
    vectors: FloatArray,
    nodes: IndexArray,
    depth: int,
    rate_weight: float | None,
) -> IndexArray:
    """Leaves below nodes at ``depth``: those that key frames take."""
    if depth == tree.depth:
        return nodes
    if not depth:
        return tree.nearest_leaf(vectors) if rate_weight is not None else tree.leaf(vectors)
    weights = tree.rate_weights if rate_weight is None else (rate_weight,) * tree.depth
    return tree.descend(vectors, nodes, depth, weights or (0.0,) * tree.depth)


def _cheap_outside(
    tree: PaletteTree,
    leaves: IndexArray,
    wanted: npt.NDArray[np.int32],
    before: IndexArray,
    depth: int,
) -> IndexArray:
    """Below the depth that is wanted of a position its reference's path, or the likeliest one.

    before: the reference's nodes at ``depth``.
    """
    below = tree.depth - wanted
    nodes = leaves >> below
    upto = np.minimum(wanted, depth)
    same = (wanted <= depth) & (nodes == before >> (depth - upto))
    # The reference goes on to its depth, from there on the likeliest path.
    start = np.where(same, before, nodes)
    at = np.where(same, depth, wanted)
    out = leaves.copy()
    for level in np.unique(at):
        here = at == level
        out[here] = _likeliest(tree, int(level))[start[here]]
    return out


def _likeliest(tree: PaletteTree, depth: int) -> IndexArray:
    """The leaf below every node at ``depth`` that takes the more frequent side at each split."""
    best: IndexArray = np.arange(2**tree.depth, dtype=np.int32)
    counts = tree.counts.astype(np.int64)
    for _ in range(tree.depth - depth):
        pairs = counts.reshape(-1, 2)
        best = best.reshape(-1, 2)[np.arange(len(pairs)), pairs.argmax(1)]
        counts = pairs.sum(1)
    return best


class FollowingLeaves:
    """Symbols of a predicted frame whose leaves are known: what is coded, part by part."""

    def __init__(self, model: TemporalModel, leaves: Indices) -> None:
        """leaves: indices at the finest state, int32 [h, w] a plane."""
        self._model = model
        self._depths = {name: tree.depth for name, tree in model.palette.trees.items()}
        self._leaves = {name: grid.reshape(-1) for name, grid in leaves.items()}

    def __call__(self, state: int, contexts: PictureContexts, step: Any, models: Any) -> Bits:
        """The symbols of the part that the contexts are at: uint8 [n]."""
        assert isinstance(contexts, PredictedContexts)
        if step is REPEAT:
            same = all(
                np.array_equal(self._at(step.plane, step.depth + 1), nodes)
                for step, nodes in contexts.repeats(state)
                if step.side
            )
            return np.array([same], np.uint8)
        return self._symbols(state, contexts, contexts.part)

    def _symbols(self, state: int, contexts: PredictedContexts, part: Part) -> Bits:
        if isinstance(part, Alone):
            return np.array([contexts.reference_state > state], np.uint8)
        if isinstance(part, Still):
            changed = any(
                self._changed(contexts, Changes(part.plane, part.layer, side)).any()
                for side in (0, 1)
            )
            return np.array([not changed], np.uint8)
        if isinstance(part, Changes):
            return self._changed(contexts, part).view(np.uint8)
        return self._split(contexts, part)

    def _changed(self, contexts: PredictedContexts, part: Changes) -> npt.NDArray[np.bool_]:
        layer = self._model.layers[part.plane][part.layer]
        positions = contexts.asked(part)
        before = contexts.followed[part.plane].at(layer.after)
        changed: npt.NDArray[np.bool_] = (
            self._at(part.plane, layer.after)[positions] != before[positions]
        )
        return changed

    def _split(self, contexts: PredictedContexts, step: Pass) -> Bits:
        nodes = self._at(step.plane, step.depth + 1)[contexts.asked(step)]
        return (nodes & 1).astype(np.uint8)

    def _at(self, plane: str, depth: int) -> IndexArray:
        found: IndexArray = self._leaves[plane] >> (self._depths[plane] - depth)
        return found
