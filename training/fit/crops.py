"""Random square crops of photos."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Crop:
    """A square of a photo, in its pixels, and whether it is turned left to right."""

    top: int
    left: int
    take: int
    mirrored: bool

    def cut(self, photo: Pixels, side: int) -> Pixels:
        """The square, resized to ``side`` pixels: uint8 [side, side, 3]."""
        pixels = photo[self.top : self.top + self.take, self.left : self.left + self.take]
        if self.take != side:
            resized = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
            pixels = np.asarray(resized)
        return pixels[:, ::-1] if self.mirrored else pixels


def random_crop(height: int, width: int, side: int, rng: np.random.Generator) -> Crop:
    """A crop at a random scale (down to half size), mirrored half the time."""
    largest = min(height, width, 2 * side)
    take = int(rng.integers(min(side, largest), largest + 1)) if rng.random() < 0.5 else side
    take = min(take, largest)
    top = int(rng.integers(0, height - take + 1))
    left = int(rng.integers(0, width - take + 1))
    return Crop(top, left, take, mirrored=bool(rng.random() < 0.5))
