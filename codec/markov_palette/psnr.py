"""What PSNR to expect of a reconstruction, from what the edge knows.

The edge has no decoder, but it knows the latents' distortion at every point of the stream exactly,
and the photo. A bundle may carry a model that training fitted to photos and their reconstructions,
one row a state:

    log10 MSE = intercept + sum over scales s of a_s log10 D_s + sum over blocks k of b_k log10 V_k

with D_s the mean squared error of scale s at that state, V_k what averaging over blocks of pixels
loses (:func:`shared.preprocess.block_detail`), and MSE the picture's, for pixels in 0..1, so that
PSNR = -10 log10 MSE. A row's margin is taken off it: the quantile of the residuals on photos that
the row was not fitted to, so that the stated share of photos is at least as good as expected (split
conformal prediction, Vovk et al. 2005). The regression is our own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from codec.layered import Features
from codec.markov_palette.palette import Indices, MarkovPalette
from codec.settings import LEAST, PsnrModel


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


def expected_path(
    model: PsnrModel, table: DistortionTable, detail: Sequence[float]
) -> Iterator[tuple[int, int, float]]:
    """(state, passes, dB to be expected) along the stream, never falling.

    From the coarsest state to the finest, and between two of them after each pass of a layer.
    There the picture's error falls in proportion to that of the latents.
    """
    coarser: float | None = None
    for state in range(len(model.rows) - 1, -1, -1):
        error = 10 ** (-model.rows[state].psnr(table.at(state), detail) / 10)
        if coarser is not None:
            error = min(error, coarser)
            yield from _inside(table, state, coarser, error)
        coarser = error
        yield state, 0, -10 * math.log10(error)


def _inside(
    table: DistortionTable, state: int, coarser: float, finer: float
) -> Iterator[tuple[int, int, float]]:
    before, after = (sum(table.at(place).values()) for place in (state + 1, state))
    reached = coarser
    for passes in range(1, table.passes(state)):
        gone = before - sum(table.at(state + 1, passes).values())
        way = min(max(gone / max(before - after, LEAST), 0.0), 1.0)
        reached = min(reached, coarser + (finer - coarser) * way)
        yield state + 1, passes, -10 * math.log10(reached)
