"""How much fine structure a picture has: what averaging over blocks of pixels would lose."""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

BLOCKS: Final = (2, 4, 8)
"""Sides of the blocks, in pixels."""


def block_detail(image: npt.NDArray[np.uint8]) -> tuple[float, ...]:
    """Mean squared deviation of pixels (in 0..1) from the mean of their block, for each size.

    image: uint8 [H, W, 3], sides of at least 8; what exceeds whole blocks of 8 is left out. A
    picture reduced by such a factor and enlarged again has about this error.
    """
    height, width = (side // BLOCKS[-1] * BLOCKS[-1] for side in image.shape[:2])
    sums = image[:height, :width].astype(np.uint16)
    power = [float(np.mean(np.square(sums), dtype=np.float64))]  # 255**2 fits 16 bits
    for side in BLOCKS:
        rows = sums[0::2] + sums[1::2]
        sums = rows[:, 0::2] + rows[:, 1::2]
        means = sums.astype(np.float32) / np.float32(side * side)
        power.append(float(np.mean(np.square(means), dtype=np.float64)))
    return tuple(max(power[0] - here, 0.0) / 255.0**2 for here in power[1:])
