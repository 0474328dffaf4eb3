"""Six seconds of footage, drawn: two people walk past a temple, and then stand still.

Photos that scikit-image and scikit-learn ship; nothing is downloaded.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

Pixels = npt.NDArray[np.uint8]
"""A frame: uint8 [height, width, 3], RGB; both sides are even."""

FPS = 10
MOVING, STILL = 36, 24
"""Frames in which they walk, and in which they stand."""
SIZE = (640, 416)
"""Width and height."""
NOISE = 1.5
"""Standard deviation, of 255, of what is added to every value of every frame anew: the noise of a
sensor by day. It does not stop where the people do."""

_OUTLINE = (
    (8, 256), (12, 200), (24, 155), (44, 122), (60, 112), (58, 94), (70, 80), (92, 84), (93, 70),
    (84, 60), (78, 38), (84, 20), (100, 10), (124, 9), (143, 20), (149, 40), (142, 58), (130, 70),
    (128, 84), (146, 100), (152, 122), (170, 132), (178, 150), (184, 178), (215, 174), (238, 186),
    (252, 214), (253, 256),
)  # fmt: skip
"""Around the astronaut, in a 256th of the photo's sides."""
_WALKERS = (
    (250, 20.0, 5.3, False),
    (170, 430.0, -3.1, True),
)
"""Height in pixels, left edge in the first frame, pixels a frame to the right, mirrored."""


def footage(moving: int = MOVING, still: int = STILL) -> list[Pixels]:
    """The frames, always the same ones: ``moving`` in which people walk, ``still`` in which not."""
    from sklearn.datasets import load_sample_image

    temple = Image.fromarray(load_sample_image("china.jpg"))
    scene = temple.resize(SIZE, Image.Resampling.LANCZOS, _middle(temple.size))
    rng = np.random.default_rng(14)
    frames: list[Pixels] = []
    for number in range(moving + still):
        picture = scene.copy()
        for height, left, speed, mirrored in reversed(_WALKERS):
            person = _person(height, mirrored)
            _put(picture, person, left + speed * min(number, max(moving - 1, 0)))
        values = np.asarray(picture, np.float32)
        values = values + NOISE * rng.standard_normal(values.shape, np.float32)
        frames.append(np.rint(values.clip(0, 255)).astype(np.uint8))
    return frames


def _middle(size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The largest part in the middle of a photo that has the footage's shape."""
    share = min(size[0] / SIZE[0], size[1] / SIZE[1])
    width, height = SIZE[0] * share, SIZE[1] * share
    left, top = (size[0] - width) / 2, (size[1] - height) / 2
    return left, top, left + width, top + height


def _person(height: int, mirrored: bool) -> Image.Image:
    """The astronaut, cut out: RGBA, as wide as high."""
    from skimage import data

    photo = Image.fromarray(data.astronaut())  # type: ignore[no-untyped-call]
    mask = Image.new("L", photo.size)
    scale = photo.width / 256
    ImageDraw.Draw(mask).polygon([(x * scale, y * scale) for x, y in _OUTLINE], fill=255)
    photo.putalpha(mask.filter(ImageFilter.GaussianBlur(2)))
    if mirrored:
        photo = photo.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    return photo.resize((height, height), Image.Resampling.LANCZOS)


def _put(picture: Image.Image, person: Image.Image, left: float) -> None:
    """Paste at the lower edge, as far to the left as a part of a pixel says."""
    shift = (1, 0, -left, 0, 1, person.height - picture.height)
    placed = person.transform(
        picture.size, Image.Transform.AFFINE, shift, Image.Resampling.BILINEAR
    )
    picture.paste(placed, mask=placed.getchannel("A"))
