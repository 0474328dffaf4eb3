"""Comparing reconstructions: pixels are floating point work, indices are not."""

from __future__ import annotations

import numpy as np


def same_picture(first: np.ndarray, second: np.ndarray) -> bool:
    """Equal shapes, and no sample further apart than rounding can put it.

    The same latents in another batch, or on another number of threads, are summed in another
    order; a sample near a half may then round the other way.
    """
    if first.shape != second.shape:
        return False
    return bool(np.abs(first.astype(int) - second.astype(int)).max() <= 1)
