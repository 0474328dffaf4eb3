"""Masks of objects from the logits of a crop."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_server.tasks.geometry import SquareCrop
from shared.results import Box

_BAND_ROWS = 512


def paste_mask(
    logits: NDArray[np.float32], crop: SquareCrop, box: Box, width: int, height: int
) -> NDArray[np.uint8]:
    """uint8 [height, width], 1 where a crop's logits, brought to full resolution, are positive
    and the pixel's centre lies inside ``box``. The crop must not be rotated.

    A large box is done in bands of rows: logits of a whole 8192x8192 picture would take 256 MiB.
    """
    mask = np.zeros((height, width), dtype=np.uint8)
    x0, x1 = max(0, round(box.x_min)), min(width, round(box.x_max))
    y0, y1 = max(0, round(box.y_min)), min(height, round(box.y_max))
    if x0 >= x1 or y0 >= y1:
        return mask
    side = logits.shape[0]
    scale = side / crop.side
    shift_x = (x0 + 0.5 - crop.x + crop.side / 2) * scale - 0.5
    for top in range(y0, y1, _BAND_ROWS):
        bottom = min(top + _BAND_ROWS, y1)
        shift_y = (top + 0.5 - crop.y + crop.side / 2) * scale - 0.5
        matrix = np.array([[scale, 0.0, shift_x], [0.0, scale, shift_y]])
        band = cv2.warpAffine(
            logits,
            matrix,
            (x1 - x0, bottom - top),
            flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REPLICATE,
        )
        mask[top:bottom, x0:x1] = band > 0
    return mask
