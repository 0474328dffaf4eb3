"""Distributions of a symbol: rounded logistic ones, by where the mean lies and by scale.

The context networks say a mean in eighths of a step and the number of a scale. A symbol is the
value less the nearest whole step to the mean, so that a table needs to know only where between
two steps the mean lies. Logistic distributions, integrated over steps, as in Salimans et al.,
"PixelCNN++" (2017). Made in training; ends of the stream read integers.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

MEAN_UNIT: Final = 8
"""Parts of a step in which means are told."""
SCALES: Final = 32
SCALE_STEPS: Final = 6.0
"""Scales a factor of e: number k is ``exp(SCALE_FIRST + k / SCALE_STEPS)`` steps."""
SCALE_FIRST: Final = -3.0
_TOTAL: Final = 1 << 20


def symbol_tables(limit: int) -> npt.NDArray[np.int32]:
    """Counts for symbols -2 limit to 2 limit: int32 [SCALES * MEAN_UNIT, 4 limit + 1].

    Row ``scale * MEAN_UNIT + part``; the mean lies at ``part / MEAN_UNIT - 1/2``. limit: the
    largest absolute value and mean, in steps. Every row sums to 2**20.
    """
    symbols = np.arange(-2 * limit, 2 * limit + 1)
    rows = []
    for scale in np.exp(SCALE_FIRST + np.arange(SCALES) / SCALE_STEPS):
        for part in range(MEAN_UNIT):
            mean = part / MEAN_UNIT - 0.5
            edges = (np.append(symbols, symbols[-1] + 1) - 0.5 - mean) / scale
            below = 0.5 * (1 + np.tanh(edges / 2))
            # Differences in the upper tail by its mirror image, where they are exact.
            above = 0.5 * (1 - np.tanh(edges / 2))
            chance = np.where(edges[:-1] > 0, above[:-1] - above[1:], below[1:] - below[:-1])
            rows.append(_counts(chance))
    return np.array(rows, np.int32)


def _counts(chance: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    counts = np.maximum(1, np.round(chance / chance.sum() * _TOTAL)).astype(np.int64)
    counts[counts.argmax()] += _TOTAL - counts.sum()
    return np.asarray(counts)
