"""The codecs that anyone could use instead, through Pillow; and float16 features as null codec."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Rival:
    """A codec with a quality knob: pixels, quality -> (file bytes, decoded pixels)."""

    name: str
    qualities: tuple[int, ...]
    code: Callable[[Pixels, int], tuple[int, Pixels]]


def rivals() -> list[Rival]:
    """JPEG, WebP, and AVIF at full and at half size, as far as this Pillow has them."""
    from PIL import features

    found = [Rival("jpeg", (3, 6, 10, 20, 35), _coder("JPEG"))]
    if features.check("webp"):
        found.append(Rival("webp", (0, 5, 15, 30, 50), _coder("WEBP", method=4)))
    if features.check("avif"):
        avif = (8, 16, 26, 36, 46, 56)
        found.append(Rival("avif", avif, _coder("AVIF", speed=6)))
        found.append(Rival("avif-half", avif, _coder("AVIF", reduce=2, speed=6)))
    return found


def smallest_within(rival: Rival, pixels: Pixels, budget: int) -> tuple[int, int, Pixels] | None:
    """The best quality whose file is at most ``budget`` bytes: (quality, bytes, pixels) or None."""
    low, high, best = 0, 95, None
    while low <= high:
        quality = (low + high) // 2
        size, decoded = rival.code(pixels, quality)
        if size <= budget:
            best, low = (quality, size, decoded), quality + 1
        else:
            high = quality - 1
    return best


def _coder(
    kind: str, *, reduce: int = 1, **settings: int
) -> Callable[[Pixels, int], tuple[int, Pixels]]:
    def code(pixels: Pixels, quality: int) -> tuple[int, Pixels]:
        picture = Image.fromarray(pixels)
        size = picture.size
        if reduce > 1:
            smaller = (max(1, size[0] // reduce), max(1, size[1] // reduce))
            picture = picture.resize(smaller, Image.Resampling.LANCZOS)
        buffer = io.BytesIO()
        picture.save(buffer, kind, quality=quality, **settings)
        decoded = Image.open(io.BytesIO(buffer.getvalue())).convert("RGB")
        if reduce > 1:
            decoded = decoded.resize(size, Image.Resampling.BICUBIC)
        return len(buffer.getvalue()), np.asarray(decoded)

    return code
