"""The forward chain: planes of palettes, and the table of diffusion states that cuts them.

State 0 is the finest description; each following state merges colours of some planes. A state is
a depth in every plane's tree, so that its indices are prefixes of the finest state's indices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from codec.features import Features
from codec.markov_palette.prediction import ScalePrediction
from codec.markov_palette.tree import FloatArray, IndexArray, PaletteTree
from codec.settings import DiffusionState, PlaneSpec
from shared.errors import BundleError

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


class MarkovPalette:
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
        self.planes = tuple(planes)
        self.trees = {plane.name: trees[plane.name] for plane in planes}
        self.states = tuple(states)
        self.predictions = dict(predictions or {})
        if not self.states:
            raise BundleError("bad_states", "the state table is empty")
        self._check()

    @property
    def finest_state(self) -> int:
        """The first state of the chain: 0, unless finer chains come before it in the bundle."""
        return self.states[0].state

    @property
    def coarsest_state(self) -> int:
        """The last state of the chain."""
        return self.states[-1].state

    def depths(self, state: int) -> dict[str, int]:
        """Each plane's depth at ``state``; past the coarsest state every depth is 0."""
        if state > self.coarsest_state:
            return {plane.name: 0 for plane in self.planes}
        depths = self.states[state - self.finest_state].depths
        return {plane.name: depth for plane, depth in zip(self.planes, depths, strict=True)}

    def passes(self, state: int) -> tuple[Pass, ...]:
        """What leads from state ``state + 1`` to ``state``, in the stream's order."""
        before, after = self.depths(state + 1), self.depths(state)
        return tuple(
            Pass(plane.name, depth, side)
            for plane in self.planes
            for depth in range(before[plane.name], after[plane.name])
            for side in range(2)
        )

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

    def distortion(self, features: Features, indices: Indices, state: int) -> float:
        """Mean squared error per element between what is quantised and the colours of
        ``state``.

        indices are those of the finest state.
        """
        decoded = self.decode(self.merge(indices, self.finest_state, state), state)
        errors = [
            np.square(self.residual(features, scale, indices) - grid).ravel()
            for scale, grid in decoded.items()
        ]
        return float(np.concatenate(errors).mean())

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
            expected = 0
            for plane in (plane for plane in self.planes if plane.scale == scale):
                if plane.first_channel != expected:
                    raise BundleError("bad_planes", f"scale {scale}: planes leave a gap")
                expected += plane.channels
            self._check_prediction(scale, expected)
        finer = tuple(plane.depth for plane in self.planes)
        for position, row in enumerate(self.states):
            if row.state != self.finest_state + position or len(row.depths) != len(self.planes):
                raise BundleError("bad_states", f"row {position} of the state table is malformed")
            if any(here > above for here, above in zip(row.depths, finer, strict=True)):
                raise BundleError("bad_states", f"state {row.state} is finer than the one before")
            finer = row.depths

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
