"""The codecs that anyone could use instead, through Pillow."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image, features

Pixels = npt.NDArray[np.uint8]
Coded = tuple[int, int, Pixels]
"""(knob, file bytes, decoded pixels)."""


@dataclass(frozen=True)
class Rival:
    """A codec with a quality knob. ``version`` names the libraries that its files depend on."""

    name: str
    qualities: tuple[int, ...]
    code: Callable[[Pixels, int], tuple[int, Pixels]]
    version: str = ""
    groups: frozenset[str] | None = None
    """The metric groups that it is measured by; None for all."""

    @property
    def identity(self) -> str:
        """What its results are cached under."""
        return f"{self.name}/{self.version}"

    @property
    def knobs(self) -> tuple[int, ...]:
        """Qualities, coarsest first."""
        return self.qualities

    def points(self, pixels: Pixels, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo at every one of ``knobs``."""
        for knob in knobs:
            yield (knob, *self.code(pixels, knob))


def rivals() -> list[Rival]:
    """JPEG, WebP, AVIF and JPEG XL, as far as this Pillow has them.

    Each as good as its own encoder makes it in reasonable time: JPEG progressive with optimised
    tables, WebP with method 6, AVIF at speed 6, JPEG XL at effort 7. AVIF also reduced to half and
    to a quarter of the sides first (Lanczos) and enlarged again (bicubic), JPEG XL to half: the
    strong baselines at low rates. Qualities start at the lowest that the encoder takes.
    """
    found = [
        Rival(
            "jpeg",
            (1, 4, 8, 14, 24),
            _coder("JPEG", optimize=True, progressive=True),
            f"pillow-{PIL.__version__},libjpeg-turbo,progressive,optimised",
        )
    ]
    if features.check("webp"):
        version = f"libwebp-{features.version('webp')},method-6"
        found.append(Rival("webp", (0, 4, 10, 20), _coder("WEBP", method=6), version))
    if features.check("avif"):
        version = f"libavif-{features.version('avif')},speed-6"
        for reduce, qualities in (
            (1, (0, 5, 10, 18, 28, 38)),
            (2, (0, 5, 10, 18, 28, 40)),
            (4, (0, 10, 26, 46)),
        ):
            code = _coder("AVIF", reduce=reduce, speed=6, max_threads=1)
            found.append(Rival(_reduced("avif", reduce), qualities, code, version))
    jxl = jpeg_xl_version()
    if jxl is not None:
        for reduce, qualities in ((1, (0, 6, 14)), (2, (0, 6, 16, 32))):
            code = _coder("JXL", reduce=reduce, effort=7, num_threads=1)
            found.append(Rival(_reduced("jxl", reduce), qualities, code, jxl))
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


def jpeg_xl_version() -> str | None:
    """What codes JPEG XL; None without the extra `jxl`, whose plugin registers with Pillow."""
    try:
        import pillow_jxl  # noqa: F401  registers itself
    except ImportError:
        return None
    from importlib.metadata import version

    return f"pillow-jxl-plugin-{version('pillow-jxl-plugin')},effort-7"


def _reduced(name: str, reduce: int) -> str:
    return {1: name, 2: f"{name}-half", 4: f"{name}-quarter"}[reduce]


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
