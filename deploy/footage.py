"""Footage for a demonstration: a camera pans and zooms over photos that packages ship.

python footage.py OUTPUT.mp4 [SECONDS]

Nothing is downloaded: the photos are those of scikit-image and scikit-learn.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data
from sklearn.datasets import load_sample_image

WIDTH, HEIGHT, FPS = 480, 360, 10
"""CamVid's shape."""
SECONDS = 36.0


def photos() -> list[Image.Image]:
    """What the camera sees, one after the other."""
    pictures = [data.coffee(), load_sample_image("china.jpg"), data.chelsea(), data.astronaut()]
    return [Image.fromarray(picture) for picture in pictures]


def pan(photo: Image.Image, frames: int) -> Iterator[NDArray[np.uint8]]:
    """RGB ``uint8 HEIGHTxWIDTHx3``: a window that wanders over the photo and comes nearer."""
    room = min(photo.width / WIDTH, photo.height / HEIGHT)
    for number in range(frames):
        along = number / frames
        size = room * (0.95 - 0.2 * (1 - math.cos(2 * math.pi * along)) / 2)
        width, height = WIDTH * size, HEIGHT * size
        left = (photo.width - width) * (1 - math.cos(math.pi * along)) / 2
        top = (photo.height - height) * (1 + math.sin(2 * math.pi * along)) / 2
        window = photo.resize(
            (WIDTH, HEIGHT), Image.Resampling.BILINEAR, (left, top, left + width, top + height)
        )
        yield np.asarray(window, np.uint8)


def make(output: Path, seconds: float = SECONDS) -> None:
    """Write the film, ``seconds`` long."""
    seen = photos()
    with av.open(str(output), "w") as film:
        stream = film.add_stream("mpeg4", rate=Fraction(FPS))
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.bit_rate = 2_000_000
        for photo in seen:
            for picture in pan(photo, max(1, round(seconds * FPS / len(seen)))):
                film.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        film.mux(stream.encode(None))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    make(Path(sys.argv[1]), *map(float, sys.argv[2:]))
