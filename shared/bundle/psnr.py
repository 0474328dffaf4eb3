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
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from codec.markov_palette.distortion import DistortionTable

LEAST: Final = 1e-9
"""Distortions and detail are raised to this, so that they have a logarithm."""


class PsnrRow(BaseModel):
    """The coefficients of one state."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    intercept: float
    distortion: dict[str, float] = Field(description="a, by name of scale")
    detail: tuple[float, float, float] = Field(description="b, for blocks of 2, 4 and 8 pixels")
    margin_db: float = Field(ge=0, le=60)

    def psnr(self, distortion: Mapping[str, float], detail: Sequence[float]) -> float:
        """Decibels to be expected, the margin taken off."""
        total = self.intercept
        for scale, weight in self.distortion.items():
            total += weight * math.log10(max(distortion[scale], LEAST))
        for weight, value in zip(self.detail, detail, strict=True):
            total += weight * math.log10(max(value, LEAST))
        return -10 * total - self.margin_db


class PsnrModel(BaseModel):
    """A row for every state, finest first."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rows: tuple[PsnrRow, ...] = Field(min_length=1, max_length=64)
    share: float = Field(gt=0, lt=1, description="of photos that are as good as expected")

    def path(
        self, table: DistortionTable, detail: Sequence[float]
    ) -> Iterator[tuple[int, int, float]]:
        """(state, passes, dB to be expected) along the stream, never falling.

        From the coarsest state to the finest, and between two of them after each pass of a layer.
        There the picture's error falls in proportion to that of the latents.
        """
        coarser: float | None = None
        for state in range(len(self.rows) - 1, -1, -1):
            error = 10 ** (-self.rows[state].psnr(table.at(state), detail) / 10)
            if coarser is not None:
                error = min(error, coarser)
                yield from self._inside(table, state, coarser, error)
            coarser = error
            yield state, 0, -10 * math.log10(error)

    def _inside(
        self, table: DistortionTable, state: int, coarser: float, finer: float
    ) -> Iterator[tuple[int, int, float]]:
        before, after = (sum(table.at(place).values()) for place in (state + 1, state))
        reached = coarser
        for passes in range(1, table.passes(state)):
            gone = before - sum(table.at(state + 1, passes).values())
            way = min(max(gone / max(before - after, LEAST), 0.0), 1.0)
            reached = min(reached, coarser + (finer - coarser) * way)
            yield state + 1, passes, -10 * math.log10(reached)
