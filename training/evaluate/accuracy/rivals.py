"""Rival codecs for machines: at full, half and quarter size, and at the network's input size.

The last is the strong baseline: who knows the network sends only the pixels that it looks at.
Networks get the decoded picture as it is, without enlarging it first.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import PIL
from PIL import Image, features

from training.evaluate.accuracy.base import Coded, Network, Pixels
from training.evaluate.photos import EvaluationPhoto
from training.evaluate.rivals import jpeg_xl_version

AT_INPUT = "input"
_SUFFIXES = {"1": "", "2": "-half", "4": "-quarter", AT_INPUT: "-input"}
_SETTINGS: dict[str, dict[str, int | bool]] = {
    "avif": {"speed": 6, "max_threads": 1},
    "jpeg": {"optimize": True, "progressive": True},
    "webp": {"method": 6},
    "jxl": {"effort": 7, "num_threads": 1},
}
_QUALITIES: dict[str, dict[str, tuple[int, ...]]] = {
    "avif": {
        "1": (0, 10, 20, 30, 42, 56),
        "2": (5, 18, 30, 42, 55, 68),
        "4": (20, 45, 65, 82),
        AT_INPUT: (2, 12, 22, 32, 42, 52, 64, 78),
    },
    "jpeg": {
        "1": (2, 8, 16, 30),
        "2": (4, 12, 25, 50),
        "4": (12, 35, 70),
        AT_INPUT: (4, 10, 20, 35, 60),
    },
    "webp": {
        "1": (0, 8, 25),
        "2": (0, 10, 30, 60),
        "4": (10, 50, 80),
        AT_INPUT: (0, 8, 22, 45, 70),
    },
    "jxl": {"1": (2, 16), "2": (8, 30, 55), "4": (30, 65), AT_INPUT: (8, 25, 45, 68)},
}
"""Qualities from the coarsest that an encoder takes to about all of the accuracy."""


@dataclass(frozen=True)
class MachineRival:
    """A codec of one size before a network; bytes are of the whole file."""

    name: str
    knobs: tuple[int, ...]
    network: Network
    version: str
    kind: str
    reduce: Callable[[Pixels], Pixels]

    @property
    def identity(self) -> str:
        """The encoder's version and settings, and the network."""
        return f"{self.name}/{self.version}|{self.network.identity}"

    def points(self, photo: EvaluationPhoto, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo reduced, coded, decoded, and shown to the network."""
        smaller = self.reduce(photo.pixels)
        for knob in knobs:
            data = encode(smaller, self.kind, knob)
            decoded = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
            yield Coded(knob, len(data), self.network.run(decoded, photo))


def machine_rivals(network: Network) -> list[MachineRival]:
    """AVIF (speed 6), JPEG, WebP (method 6) and JPEG XL (effort 7), as far as Pillow has them.

    Each at full size, and with the sides halved and quartered (Lanczos); and, for a network that
    brings pictures to one size, at that size, reduced as the network does it itself.
    """
    found = []
    for kind, version in _versions().items():
        for size, qualities in _QUALITIES[kind].items():
            if size == AT_INPUT and network.input_size is None:
                continue
            reduce = network.prepare if size == AT_INPUT else _reducer(int(size))
            name = kind + _SUFFIXES[size]
            found.append(MachineRival(name, qualities, network, version, kind, reduce))
    return found


def variants(kind: str) -> tuple[str, ...]:
    """Names of a codec's sizes."""
    return tuple(kind + suffix for suffix in _SUFFIXES.values())


def encode(pixels: Pixels, kind: str, quality: int) -> bytes:
    """uint8 [h, w, 3] as a file of ``kind``: avif, jpeg, webp or jxl; one thread."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind.upper(), quality=quality, **_SETTINGS[kind])
    return buffer.getvalue()


def _versions() -> dict[str, str]:
    """Codecs that are there, with the libraries that their files depend on."""
    found = {}
    if features.check("avif"):
        found["avif"] = f"libavif-{features.version('avif')}"
    found["jpeg"] = f"pillow-{PIL.__version__},libjpeg-turbo"
    if features.check("webp"):
        found["webp"] = f"libwebp-{features.version('webp')}"
    jxl = jpeg_xl_version()
    if jxl is not None:
        found["jxl"] = jxl
    return {
        kind: version + "," + ",".join(f"{k}-{int(v)}" for k, v in _SETTINGS[kind].items())
        for kind, version in found.items()
    }


def _reducer(factor: int) -> Callable[[Pixels], Pixels]:
    def reduce(pixels: Pixels) -> Pixels:
        if factor == 1:
            return pixels
        height, width = pixels.shape[:2]
        size = (max(1, width // factor), max(1, height // factor))
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))

    return reduce
