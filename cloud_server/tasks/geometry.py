"""Crops, and masks of objects in them. Coordinates are continuous: the first pixel covers 0..1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from cloud_server.tasks.base import Image
from shared.results import Box

_BAND_ROWS = 512


@dataclass(frozen=True, slots=True)
class SquareCrop:
    """A rotated square of a picture: its centre and side in pixels, turned by ``angle`` radians
    (clockwise on the screen, y being down)."""

    x: float
    y: float
    side: float
    angle: float = 0.0

    def to_picture(self, unit: NDArray[np.float64]) -> NDArray[np.float64]:
        """[N, 2] positions in the crop, 0..1, as picture pixels."""
        return (unit - 0.5) * self.side @ self._rotation().T + (self.x, self.y)

    def cut(self, image: Image, size: int) -> Image:
        """The crop, size x size pixels; black outside the picture.

        A crop much larger than ``size`` is averaged down first, lest fine detail alias.
        """
        half = 0.5 * self.side * (abs(np.cos(self.angle)) + abs(np.sin(self.angle)))
        x0, x1 = _clip_span(self.x - half, self.x + half, image.shape[1])
        y0, y1 = _clip_span(self.y - half, self.y + half, image.shape[0])
        region: NDArray[Any] = image[y0:y1, x0:x1]
        scale_x = scale_y = 1.0
        factor = int(self.side // size)
        if factor >= 2:
            # Both scales are exact for the rounded size, so that the crop does not shift.
            width, height = max(1, (x1 - x0) // factor), max(1, (y1 - y0) // factor)
            region = cv2.resize(region, (width, height), interpolation=cv2.INTER_AREA)
            scale_x, scale_y = width / (x1 - x0), height / (y1 - y0)
        # Pixel i covers i..i+1, and warpAffine counts from pixel centres: half a pixel each way.
        linear = self._rotation() * (self.side / size)
        offset = np.array([self.x - x0, self.y - y0]) - linear @ [size / 2, size / 2]
        scale = np.diag([scale_x, scale_y])
        linear, offset = scale @ linear, scale @ offset
        matrix = np.column_stack([linear, offset + linear @ [0.5, 0.5] - 0.5])
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        out = cv2.warpAffine(region, matrix, (size, size), flags=flags)
        return np.asarray(out, dtype=np.uint8)

    def _rotation(self) -> NDArray[np.float64]:
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.array([[c, -s], [s, c]])


def shrink(image: Image, width: int, height: int) -> Image:
    """The picture at another size: averaged when it becomes smaller, else interpolated."""
    smaller = width * height < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if smaller else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=method), dtype=np.uint8)


def _clip_span(low: float, high: float, size: int) -> tuple[int, int]:
    """[low, high) in whole pixels inside 0..size, at least one pixel long."""
    start = int(np.clip(np.floor(low) - 1, 0, size - 1))
    return start, int(np.clip(np.ceil(high) + 1, start + 1, size))


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
