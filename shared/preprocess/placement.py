"""Pictures at the size that a network wants, and positions in it as pixels of the picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.preprocess.geometry import Picture

LETTERBOX_GREY = 114
"""The grey that YOLO's networks are trained with around pictures of other proportions."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture of ``width`` x ``height`` pixels lies in a network's input.

    The picture covers ``inner_width`` x ``inner_height`` pixels of ``to_width`` x ``to_height``,
    from (``left``, ``top``).
    """

    width: int
    height: int
    to_width: int
    to_height: int
    left: int
    top: int
    inner_width: int
    inner_height: int

    @classmethod
    def of(
        cls,
        width: int,
        height: int,
        to_width: int,
        to_height: int,
        fit: Literal["stretch", "letterbox"] = "stretch",
    ) -> Placement:
        """stretch fills the input; letterbox keeps the proportions, in the middle."""
        inner_width, inner_height = to_width, to_height
        if fit == "letterbox":
            scale = min(to_width / width, to_height / height)
            inner_width = min(to_width, max(1, round(scale * width)))
            inner_height = min(to_height, max(1, round(scale * height)))
        left, top = (to_width - inner_width) // 2, (to_height - inner_height) // 2
        return cls(width, height, to_width, to_height, left, top, inner_width, inner_height)

    def apply(self, image: Picture) -> Picture:
        """The network's input, uint8 [to_height, to_width, 3]: areas averaged where it shrinks."""
        inner = (self.inner_width, self.inner_height)
        if inner != (self.width, self.height):
            smaller = inner[0] * inner[1] < self.width * self.height
            method = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
            image = np.asarray(Image.fromarray(image).resize(inner, method))
        if inner == (self.to_width, self.to_height):
            return np.ascontiguousarray(image)
        canvas = np.full((self.to_height, self.to_width, 3), LETTERBOX_GREY, np.uint8)
        rows = slice(self.top, self.top + self.inner_height)
        canvas[rows, self.left : self.left + self.inner_width] = image
        return canvas

    def boxes(self, shares: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Boxes [..., 4] as shares of the input -> pixels of the picture, not cut to it."""
        size = np.array([self.to_width, self.to_height] * 2, np.float64)
        start = np.array([self.left, self.top] * 2, np.float64)
        inner = np.array([self.inner_width, self.inner_height] * 2, np.float64)
        picture = np.array([self.width, self.height] * 2, np.float64)
        out: NDArray[np.float64] = (shares.astype(np.float64) * size - start) / inner * picture
        return out
