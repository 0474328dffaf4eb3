"""Photos without colour: whether one is, and a picture made so.

A decoder that was trained on colour gives grey photos a tint. Only the photo itself says for sure
that there was none, so the edge looks, and the bitstream's header tells.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

BLOCK: Final = 16
MOST_OF_A_BLOCK: Final = 3
"""Levels from the least to the greatest of a block's mean red, green and blue: the chroma planes of
JPEG and video round grey to a level or two of colour, and a camera's noise averages out."""
MOST_OF_A_PIXEL: Final = 96
"""Levels: a small light in a grey room is colour."""


def is_grey(photo: NDArray[np.uint8]) -> bool:
    """Whether a photo, uint8 [H, W, 3] RGB, shows no colour."""
    if _spread(photo[::BLOCK, ::BLOCK]) > MOST_OF_A_PIXEL:
        return False  # most photos end here
    blocks = np.asarray(Image.fromarray(photo).reduce(BLOCK))
    return _spread(blocks) <= MOST_OF_A_BLOCK and _spread(photo) <= MOST_OF_A_PIXEL


def without_colour(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture's luma (BT.601) in all three channels: uint8 [H, W, 3]."""
    grey = np.asarray(Image.fromarray(np.ascontiguousarray(picture)).convert("L"))
    return np.repeat(grey[:, :, None], 3, axis=2)


def _spread(pixels: NDArray[np.uint8]) -> int:
    """The greatest difference between the channels of a pixel."""
    red, green, blue = (pixels[:, :, channel] for channel in range(3))
    highest = np.maximum(np.maximum(red, green), blue)
    return int((highest - np.minimum(np.minimum(red, green), blue)).max())
