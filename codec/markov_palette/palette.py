"""The forward chain: planes of palettes that merge in pairs, and the states that cut them.

A plane's palette is a tree: 2**depth leaf colours that merge in pairs down to one. Colours are
integers on a grid of ``2**-exponent``, so that the entropy coder's contexts, which are computed
from them, are the same on every machine. The nodes of all depths lie in one array in heap order:
node ``k`` of depth ``d`` is row ``2**d - 1 + k``, its children are the nodes ``2k`` and ``2k + 1``
of depth ``d + 1``, so that merging is a shift by one bit.

State 0 is the finest description; each following state merges colours of some planes. A state is
a depth in every plane's tree, so that its indices are prefixes of the finest state's indices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from codec.latents import Features
from codec.layered import StatePalette
from codec.markov_palette.prediction import ScalePrediction
from codec.settings import MAX_CHANNELS, MAX_DEPTH, DiffusionState, PlaneSpec
from shared.errors import BundleError

Int16Array = npt.NDArray[np.int16]
IndexArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]

_SEARCH_ROWS = 16384


@dataclass(frozen=True, slots=True, eq=False)
class PaletteTree:
    """A complete binary tree of colours.

    nodes: int16 [2**(depth+1) - 1, channels], heap order. counts: uint32 [2**depth], how many
    training vectors each leaf stands for. exponent: a colour's value is ``node * 2**-exponent``.
    rate_weights: the squared error that one bit was worth at every split when the tree was made
    (the lambda of entropy-constrained quantisation); none when it was made for nearest leaves.
    """

    nodes: Int16Array
    counts: npt.NDArray[np.uint32]
    exponent: int
    rate_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        rows = self.nodes.shape[0] + 1 if self.nodes.ndim == 2 else 0
        depth = rows.bit_length() - 2
        if (
            self.nodes.dtype != np.int16
            or not 1 <= depth <= MAX_DEPTH
            or rows != 2 ** (depth + 1)
            or not 1 <= self.nodes.shape[1] <= MAX_CHANNELS
        ):
            raise BundleError(
                "bad_palette",
                f"palette nodes must be int16 [2**(depth+1)-1, channels], "
                f"got {self.nodes.dtype} {list(self.nodes.shape)}",
            )
        if self.counts.dtype != np.uint32 or self.counts.shape != (2**depth,):
            raise BundleError("bad_palette", f"palette counts must be uint32 [{2**depth}]")
        if not -32 <= self.exponent <= 32:
            raise BundleError("bad_palette", f"palette exponent {self.exponent} is out of range")
        weights = np.asarray(self.rate_weights, np.float64)
        if (
            weights.shape not in ((0,), (depth,))
            or not (weights >= 0).all() & (weights < 1e9).all()
        ):
            raise BundleError(
                "bad_palette", "rate weights must be numbers of 0 or more, one a split"
            )

    @classmethod
    def from_leaves(
        cls,
        leaves: npt.NDArray[np.floating[Any]],
        counts: npt.NDArray[np.integer[Any]],
        rate_weights: Sequence[float] = (),
    ) -> PaletteTree:
        """Build the tree above ``leaves`` (float [2**depth, channels]) weighted by ``counts``.

        Each parent is the count-weighted mean of the two colours it merges; a leaf that no
        vector chose weighs next to nothing. The grid is the finest that fits 13 bits.
        """
        means, weights = [np.asarray(leaves, np.float64)], [np.maximum(counts, 1e-6)]
        while len(means[0]) > 1:
            pair = means[0].reshape(-1, 2, means[0].shape[1])
            weight = weights[0].reshape(-1, 2, 1)
            means.insert(0, (pair * weight).sum(1) / weight.sum(1))
            weights.insert(0, weight.sum((1, 2)))
        heap = np.concatenate(means)
        largest = float(np.abs(heap).max(initial=0.0))
        exponent = int(np.floor(np.log2(4095.0 / largest))) if largest > 0 else 0
        nodes = np.round(heap * 2.0**exponent).astype(np.int16)
        return cls(nodes, np.asarray(counts).astype(np.uint32), exponent, tuple(rate_weights))

    @property
    def depth(self) -> int:
        """Levels of splits: there are ``2**depth`` leaves."""
        return (self.nodes.shape[0] + 1).bit_length() - 2

    @property
    def channels(self) -> int:
        """Length of one colour vector."""
        return int(self.nodes.shape[1])

    def integer_colours(self, depth: int) -> Int16Array:
        """The palette at ``depth`` on the integer grid: int16 [2**depth, channels]."""
        return self.nodes[2**depth - 1 : 2 ** (depth + 1) - 1]

    def colours(self, depth: int) -> FloatArray:
        """The palette at ``depth``: float32 [2**depth, channels]."""
        scale = np.float32(2.0**-self.exponent)
        return self.integer_colours(depth).astype(np.float32) * scale

    def node_colours(self, nodes: IndexArray, depths: npt.NDArray[np.uint8]) -> FloatArray:
        """Colours of ``nodes`` (int32 [...]) that lie at ``depths`` (of the same shape).

        Returns float32 [..., channels].
        """
        rows = (1 << depths.astype(np.int32)) - 1 + nodes
        scale = np.float32(2.0**-self.exponent)
        return np.asarray(self.nodes[rows], np.float32) * scale

    def merge_cost(self, depth: int) -> npt.NDArray[np.float64]:
        """Ward's cost of each merge from ``depth`` to ``depth - 1``: float64 [2**(depth-1)].

        ``n_a n_b / (n_a + n_b) |c_a - c_b|**2`` (Ward 1963): the squared error that it adds.
        """
        weights = self.counts.astype(np.float64).reshape(2**depth, -1).sum(1).reshape(-1, 2)
        pairs = self.colours(depth).astype(np.float64).reshape(-1, 2, self.channels)
        total = np.maximum(weights.sum(1), 1.0)
        distance = np.square(pairs[:, 0] - pairs[:, 1]).sum(1)
        return np.asarray(weights.prod(1) / total * distance)

    def static_bits(self) -> list[FloatArray]:
        """What each node costs by the training counts alone: float32 [2**d] for every depth d.

        The sum over the splits that lead to it of ``-log2`` of its side's share, each side having
        half a vector more than it had.
        """
        bits = [np.zeros(1)]
        for depth in range(1, self.depth + 1):
            sizes = self.counts.astype(np.float64).reshape(2**depth, -1).sum(1).reshape(-1, 2) + 0.5
            split = -np.log2(sizes / sizes.sum(1, keepdims=True))
            bits.append(np.repeat(bits[-1], 2) + split.ravel())
        return [values.astype(np.float32) for values in bits]

    def nearest_leaf(self, vectors: FloatArray) -> IndexArray:
        """The leaf nearest to each vector by a full search.

        vectors: float32 [n, channels]. Returns int32 [n]. Ties go to the lowest index.
        """
        leaves = self.colours(self.depth)
        half_norms = np.float32(0.5) * np.square(leaves).sum(1)
        out = np.empty(len(vectors), np.int32)
        for start in range(0, len(vectors), _SEARCH_ROWS):
            block = slice(start, start + _SEARCH_ROWS)
            out[block] = np.argmax(vectors[block] @ leaves.T - half_norms, axis=1)
        return out

    def leaf(self, vectors: FloatArray) -> IndexArray:
        """The leaf that stands for each vector: float32 [n, channels] -> int32 [n].

        The nearest one; or, in a tree with rate weights, split by split the child of least
        ``|z - c|**2 + weight * bits`` by the static odds, ties to the lower index.
        """
        if not self.rate_weights:
            return self.nearest_leaf(vectors)
        return self.descend(vectors, np.zeros(len(vectors), np.int32), 0, self.rate_weights)

    def descend(
        self, vectors: FloatArray, nodes: IndexArray, depth: int, weights: Sequence[float]
    ) -> IndexArray:
        """Leaves below ``nodes`` (int32 [n], at ``depth``), split by split the child of least
        ``|z - c|**2 + weight * bits`` by the static odds, ties to the lower index.

        vectors: float32 [n, channels]. weights: of every split of the tree.
        """
        node, static = nodes, self.static_bits()
        for below, weight in enumerate(weights[depth:], depth + 1):
            # |z - c|**2 without |z|**2, which is the same for both children.
            colours, bits = self.colours(below), static[below] - np.repeat(static[below - 1], 2)
            costs = np.square(colours).sum(1) + np.float32(weight) * bits
            steps = np.float32(2) * (colours[1::2] - colours[::2])
            gain = np.einsum("nc,nc->n", vectors, steps[node]) - (costs[1::2] - costs[::2])[node]
            node = 2 * node + (gain > 0)
        return node

    def to_arrays(self, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
        """Named arrays for an .npz file; :meth:`from_arrays` is the inverse."""
        arrays: dict[str, npt.NDArray[np.generic]] = {
            f"{prefix}.nodes": self.nodes,
            f"{prefix}.counts": self.counts,
            f"{prefix}.exponent": np.array(self.exponent, np.int32),
        }
        if self.rate_weights:
            arrays[f"{prefix}.rate_weights"] = np.array(self.rate_weights, np.float32)
        return arrays

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Mapping[str, npt.NDArray[np.generic]]) -> PaletteTree:
        """Read what :meth:`to_arrays` wrote. Raises BundleError if anything is missing."""
        try:
            nodes, counts = arrays[f"{prefix}.nodes"], arrays[f"{prefix}.counts"]
            exponent = int(np.asarray(arrays[f"{prefix}.exponent"], np.int64).item())
            weights = np.asarray(arrays.get(f"{prefix}.rate_weights", ()), np.float64).tolist()
        except (KeyError, ValueError, TypeError) as error:
            raise BundleError("bad_palette", f"the palette of plane {prefix!r}: {error}") from None
        return cls(nodes, counts, exponent, tuple(weights))  # type: ignore[arg-type]  # dtypes checked above


Indices = dict[str, IndexArray]
Depths = dict[str, npt.NDArray[np.uint8]]
"""How deep each position of a plane is described: uint8 [h, w]."""


class Pass(NamedTuple):
    """One step of the stream: the nodes of ``plane`` at ``depth`` split, at half the positions.

    side: 0 where row + column is even, 1 where it is odd.
    """

    plane: str
    depth: int
    side: int


class MarkovPalette(StatePalette[Pass]):
    """The planes' trees and the state table: encode to a state, decode from a state."""

    def __init__(
        self,
        planes: Sequence[PlaneSpec],
        trees: Mapping[str, PaletteTree],
        states: Sequence[DiffusionState],
        predictions: Mapping[str, ScalePrediction] | None = None,
    ) -> None:
        """predictions: of scales that are quantised as residuals, by scale.

        Raises BundleError when trees, table or predictions do not fit the planes.
        """
        super().__init__(planes, states)
        self.planes = tuple(planes)
        self.trees = {plane.name: trees[plane.name] for plane in planes}
        self.predictions = dict(predictions or {})
        self._passes: dict[int, tuple[Pass, ...]] = {}
        self._check()

    def depths(self, state: int) -> dict[str, int]:
        """Each plane's depth at ``state``; past the coarsest state every depth is 0."""
        if state > self.coarsest_state:
            return {plane.name: 0 for plane in self.planes}
        depths = self.states[state - self.finest_state].depths
        return {plane.name: depth for plane, depth in zip(self.planes, depths, strict=True)}

    def passes(self, state: int) -> tuple[Pass, ...]:
        """What leads from state ``state + 1`` to ``state``, in the stream's order."""
        if state not in self._passes:
            before, after = self.depths(state + 1), self.depths(state)
            self._passes[state] = tuple(
                Pass(plane.name, depth, side)
                for plane in self.planes
                for depth in range(before[plane.name], after[plane.name])
                for side in range(2)
            )
        return self._passes[state]

    def encode(self, features: Features, *, nearest: bool = False) -> Indices:
        """Features per scale float32 [C, h, w] -> finest indices, int32 [h, w] a plane.

        The leaves are those of :meth:`PaletteTree.leaf`, or the nearest ones.
        """
        indices: Indices = {}
        remaining: dict[str, FloatArray] = {}
        for plane in self.planes:
            if plane.scale not in remaining:
                remaining[plane.scale] = self.residual(features, plane.scale, indices)
            tree, vectors = self.trees[plane.name], self.vectors(remaining, plane)
            leaves = tree.nearest_leaf(vectors) if nearest else tree.leaf(vectors)
            indices[plane.name] = leaves.reshape(features[plane.scale].shape[1:])
        return indices

    def vectors(self, values: Features, plane: PlaneSpec) -> FloatArray:
        """A plane's channels at every position: float32 [h * w, channels].

        values: of its scale, less the prediction if there is one; float32 [C, h, w].
        """
        stop = plane.first_channel + plane.channels
        channels = values[plane.scale][plane.first_channel : stop]
        return np.ascontiguousarray(channels.reshape(plane.channels, -1).T)

    def residual(self, features: Features, scale: str, indices: Indices) -> FloatArray:
        """A scale's features less what its source's leaf colours predict: float32 [C, h, w].

        indices: the finest of the source's planes. Without a prediction nothing changes.
        """
        values = features[scale]
        prediction = self.predictions.get(scale)
        if prediction is None:
            return values
        colours = np.concatenate(
            [
                self.trees[plane.name].colours(plane.depth)[indices[plane.name]]
                for plane in self.planes
                if plane.scale == prediction.source
            ],
            axis=2,
        ).transpose(2, 0, 1)
        return values - prediction.predict(colours, len(values))

    def merge(self, indices: Indices, from_state: int, to_state: int) -> Indices:
        """Run the forward chain: indices at ``from_state`` -> indices at a coarser state."""
        if to_state < from_state:
            raise ValueError(f"state {to_state} is finer than {from_state}")
        fine, coarse = self.depths(from_state), self.depths(to_state)
        return {name: grid >> (fine[name] - coarse[name]) for name, grid in indices.items()}

    def decode(self, indices: Indices, state: int) -> dict[str, FloatArray]:
        """Colours of the indices at ``state``: float32 [C, h, w] for every scale."""
        depths = self.depths(state)
        scales: dict[str, list[FloatArray]] = {}
        for plane in self.planes:
            colours = self.trees[plane.name].colours(depths[plane.name])
            scales.setdefault(plane.scale, []).append(
                colours[indices[plane.name]].transpose(2, 0, 1)
            )
        return {scale: np.concatenate(groups) for scale, groups in scales.items()}

    def decode_mixed(self, indices: Indices, depths: Depths) -> dict[str, FloatArray]:
        """Colours of nodes that lie at a depth of their own at every position.

        indices: int32 [h, w] a plane. Returns float32 [C, h, w] for every scale.
        """
        scales: dict[str, list[FloatArray]] = {}
        for plane in self.planes:
            name = plane.name
            colours = self.trees[name].node_colours(indices[name], depths[name])
            scales.setdefault(plane.scale, []).append(colours.transpose(2, 0, 1))
        return {scale: np.concatenate(groups) for scale, groups in scales.items()}

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Everything palette.npz holds."""
        arrays: dict[str, npt.NDArray[np.generic]] = {}
        for name, tree in self.trees.items():
            arrays |= tree.to_arrays(name)
        for prediction in self.predictions.values():
            arrays |= prediction.to_arrays()
        return arrays

    @classmethod
    def from_arrays(
        cls,
        planes: Sequence[PlaneSpec],
        states: Sequence[DiffusionState],
        arrays: Mapping[str, npt.NDArray[np.generic]],
    ) -> MarkovPalette:
        """Read palette.npz's arrays. Raises BundleError if they do not fit planes and states."""
        trees = {plane.name: PaletteTree.from_arrays(plane.name, arrays) for plane in planes}
        predictions = ScalePrediction.from_arrays((plane.scale for plane in planes), arrays)
        return cls(planes, trees, states, predictions)

    def _check(self) -> None:
        for plane in self.planes:
            tree = self.trees[plane.name]
            if (tree.depth, tree.channels) != (plane.depth, plane.channels):
                raise BundleError(
                    "bad_palette",
                    f"plane {plane.name}: the manifest says depth {plane.depth} and "
                    f"{plane.channels} channels, palette has {tree.depth} and {tree.channels}",
                )
        for scale in {plane.scale for plane in self.planes}:
            channels = sum(plane.channels for plane in self.planes if plane.scale == scale)
            self._check_prediction(scale, channels)

    def _check_prediction(self, scale: str, channels: int) -> None:
        prediction = self.predictions.get(scale)
        if prediction is None:
            return
        prediction.ratio(channels)
        order = [plane.scale for plane in self.planes]
        source = sum(plane.channels for plane in self.planes if plane.scale == prediction.source)
        last = len(order) - 1 - order[::-1].index(prediction.source)
        if last > order.index(scale) or prediction.weight.shape[1] != source:
            raise BundleError("bad_palette", f"the prediction of {scale} does not fit its source")
        for row in self.states:
            depths = dict(zip(self.planes, row.depths, strict=True))
            begun = any(depth for plane, depth in depths.items() if plane.scale == scale)
            whole = all(
                depth == plane.depth
                for plane, depth in depths.items()
                if plane.scale == prediction.source
            )
            if begun and not whole:
                raise BundleError(
                    "bad_states",
                    f"state {row.state} has some of {scale}, but not all of "
                    f"{prediction.source}, from which it is predicted",
                )
