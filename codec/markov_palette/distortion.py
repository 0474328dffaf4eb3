"""What is lost of the features at every state, and after every pass inside a layer: exactly."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codec.markov_palette.palette import Indices, MarkovPalette

if TYPE_CHECKING:
    from codec.features import Features


class DistortionTable:
    """One picture's squared errors, from which those of any point of its stream are summed up."""

    def __init__(self, palette: MarkovPalette, features: Features, indices: Indices) -> None:
        """features: float32 [C, h, w] per scale. indices: of state 0, int32 [h, w] a plane."""
        self._palette = palette
        self._elements = {scale: grid.size for scale, grid in features.items()}
        quantised = {scale: palette.residual(features, scale, indices) for scale in features}
        self._errors: dict[str, npt.NDArray[np.float64]] = {}
        for plane in palette.planes:
            leaves = indices[plane.name]
            side = (np.indices(leaves.shape).sum(0) & 1).reshape(-1)
            vectors = palette.vectors(quantised, plane)
            tree = palette.trees[plane.name]
            self._errors[plane.name] = np.array(
                [
                    np.bincount(
                        side,
                        np.square(
                            vectors - tree.colours(depth)[leaves.reshape(-1) >> tree.depth - depth]
                        ).sum(1),
                        minlength=2,
                    )
                    for depth in range(tree.depth + 1)
                ]
            )

    def at(self, state: int, passes: int = 0) -> dict[str, float]:
        """Mean squared error per element of every scale, at ``state`` and after ``passes`` more.

        passes: of the next finer layer; fewer than it has.
        """
        depths = {name: [depth, depth] for name, depth in self._palette.depths(state).items()}
        for step in self._palette.passes(state - 1)[:passes] if passes else ():
            depths[step.plane][step.side] = step.depth + 1
        totals = dict.fromkeys(self._elements, 0.0)
        for plane in self._palette.planes:
            for side, depth in enumerate(depths[plane.name]):
                totals[plane.scale] += float(self._errors[plane.name][depth, side])
        return {scale: total / self._elements[scale] for scale, total in totals.items()}

    def passes(self, state: int) -> int:
        """How many passes the layer of ``state`` has."""
        return len(self._palette.passes(state))
