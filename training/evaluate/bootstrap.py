"""How sure a figure is: photos drawn again, with replacement."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
LEVEL = 0.95


def resample(photos: int, resamples: int, seed: int = 0) -> Floats:
    """How often each photo is drawn: float64 [1 + resamples, photos]; row 0 is all of them once."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(photos, np.full(photos, 1 / photos), size=resamples)
    return np.concatenate([np.ones((1, photos)), drawn.astype(np.float64)])


def weighted_means(weights: Floats, values: Floats) -> Floats:
    """[n, photos] and [photos, points] -> [n, points]; NaN values do not count.

    NaN where no photo that was drawn has a value.
    """
    known = np.isfinite(values)
    total = weights @ np.where(known, values, 0.0)
    count = weights @ known.astype(np.float64)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def interval(values: npt.ArrayLike) -> tuple[float, float] | None:
    """The central 95 % of resampled values; None when more than a twentieth of them are NaN."""
    array = np.asarray(values, np.float64)
    known = array[np.isfinite(array)]
    if array.size == 0 or known.size < 0.95 * array.size:
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
