"""What PSNR to expect of a reconstruction, from what the edge knows exactly: latent distortion.

The edge has no decoder. A bundle may carry a model that training fitted to photos and their
reconstructions, one row a state:

    log10 MSE = intercept + sum over scales of (a_s log10 D_s + b_s log10 E_s)

with D_s the mean squared error of scale s at that state, and E_s that of its palettes' single
coarsest colours: how much detail there is at all. MSE is the picture's, for pixels in 0..1, so that
PSNR = -10 log10 MSE; ``margin_db`` is taken off it. Our own design; the margin is that of split
conformal prediction (Vovk et al. 2005), chosen so that the stated share of photos meets a target.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

from shared.palette.distortion import DistortionTable

LEAST_DISTORTION: Final = 1e-9
"""Distortions are raised to this, so that they have a logarithm."""


class PsnrRow(BaseModel):
    """The coefficients of one state; ``distortion`` and ``detail`` by name of scale."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    intercept: float
    distortion: dict[str, float]
    detail: dict[str, float]

    def log_mse(self, distortion: dict[str, float], detail: dict[str, float]) -> float:
        """log10 of the mean squared error that is expected of the picture."""
        total = self.intercept
        for weights, values in ((self.distortion, distortion), (self.detail, detail)):
            for scale, weight in weights.items():
                total += weight * math.log10(max(values[scale], LEAST_DISTORTION))
        return total


class PsnrModel(BaseModel):
    """A row for every state, finest first."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    rows: tuple[PsnrRow, ...] = Field(min_length=1, max_length=64)
    margin_db: float = Field(ge=0, le=60, description="taken off every expectation")
    share: float = Field(gt=0, lt=1, description="of photos that meet a target set by this model")

    def path(self, table: DistortionTable) -> Iterator[tuple[int, int, float]]:
        """(state, passes, PSNR in dB to be expected) along the stream, never falling.

        From the coarsest state to the finest, and between two of them after each pass of a layer.
        Inside a layer the picture's error falls in proportion to that of the latents.
        """
        detail = table.detail()
        best = math.inf
        for state in range(len(self.rows) - 1, -1, -1):
            here = sum(table.at(state).values())
            error = min(best, 10 ** self.rows[state].log_mse(table.at(state), detail))
            if math.isfinite(best):
                before = sum(table.at(state + 1).values())
                last = best
                for passes in range(1, table.passes(state)):
                    gone = before - sum(table.at(state + 1, passes).values())
                    way = min(max(gone / max(before - here, LEAST_DISTORTION), 0.0), 1.0)
                    last = min(last, best + (error - best) * way)
                    yield state + 1, passes, self._psnr(last)
            best = error
            yield state, 0, self._psnr(best)

    def _psnr(self, error: float) -> float:
        return -10 * math.log10(max(error, 1e-10)) - self.margin_db
