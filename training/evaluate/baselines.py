"""Baselines: the codecs that anyone could use instead, through Pillow; CompressAI's beside them.

For pictures they are at full, half and quarter size, enlarged again. For machines they are given
to the network as they are decoded, also at the network's own input size. The last is the strong
baseline: who knows the network sends only the pixels that it looks at.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import PIL
from PIL import Image, features

from shared.errors import ModelError
from training.evaluate.measure import Coded
from training.evaluate.photos import Pixels

if TYPE_CHECKING:
    from compressai.models import CompressionModel

    from training.evaluate.judges.networks import Network

FULL, HALF, QUARTER, INPUT = "", "-half", "-quarter", "-input"
"""What is behind a codec's name: the size at which it codes."""
_FACTORS = {FULL: 1, HALF: 2, QUARTER: 4}
_SETTINGS: dict[str, dict[str, int | bool]] = {
    "jpeg": {"optimize": True, "progressive": True},
    "webp": {"method": 6},
    "avif": {"speed": 6, "max_threads": 1},
    "jxl": {"effort": 7, "num_threads": 1},
}
_PICTURE_QUALITIES: dict[str, dict[str, tuple[int, ...]]] = {
    "jpeg": {FULL: (1, 4, 8, 14, 24)},
    "webp": {FULL: (0, 4, 10, 20)},
    "avif": {
        FULL: (0, 5, 10, 18, 28, 38),
        HALF: (0, 5, 10, 18, 28, 40),
        QUARTER: (0, 10, 26, 46),
    },
    "jxl": {FULL: (0, 6, 14), HALF: (0, 6, 16, 32)},
}
"""Qualities start at the lowest that the encoder takes."""
_MACHINE_QUALITIES: dict[str, dict[str, tuple[int, ...]]] = {
    "avif": {
        FULL: (0, 10, 20, 30, 42, 56),
        HALF: (5, 18, 30, 42, 55, 68),
        QUARTER: (20, 45, 65, 82),
        INPUT: (2, 12, 22, 32, 42, 52, 64, 78),
    },
    "jpeg": {
        FULL: (2, 8, 16, 30),
        HALF: (4, 12, 25, 50),
        QUARTER: (12, 35, 70),
        INPUT: (4, 10, 20, 35, 60),
    },
    "webp": {
        FULL: (0, 8, 25),
        HALF: (0, 10, 30, 60),
        QUARTER: (10, 50, 80),
        INPUT: (0, 8, 22, 45, 70),
    },
    "jxl": {FULL: (2, 16), HALF: (8, 30, 55), QUARTER: (30, 65), INPUT: (8, 25, 45, 68)},
}
"""Qualities from the coarsest that an encoder takes to about all of the accuracy."""


@dataclass(frozen=True)
class Baseline:
    """A codec with a quality knob. ``version`` names the libraries that its files depend on."""

    name: str
    knobs: tuple[int, ...]
    code: Callable[[Pixels, int], tuple[int, Pixels]]
    """A photo and a quality to the file's bytes and what is decoded of it."""
    version: str = ""
    judges: frozenset[str] | None = None
    makes: Literal["picture", "result"] = "picture"

    @property
    def identity(self) -> str:
        """What its results are cached under."""
        return f"{self.name}/{self.version}"

    def points(self, pixels: Pixels, knobs: Sequence[int]) -> Iterator[Coded]:
        """The photo at every one of ``knobs``."""
        for knob in knobs:
            size, decoded = self.code(pixels, knob)
            yield Coded(knob, size, decoded)


def picture_baselines() -> list[Baseline]:
    """JPEG, WebP, AVIF and JPEG XL, as far as this Pillow has them.

    Each as good as its own encoder makes it in reasonable time: JPEG progressive with optimised
    tables, WebP with method 6, AVIF at speed 6, JPEG XL at effort 7. AVIF also reduced to half and
    to a quarter of the sides first (Lanczos) and enlarged again (bicubic), JPEG XL to half: the
    strong baselines at low rates.
    """
    settings = {"jpeg": ",progressive,optimised", "webp": ",method-6", "avif": ",speed-6"}
    libraries = _libraries()
    return [
        Baseline(
            kind + size,
            qualities,
            _coder(kind, _reducer(_FACTORS[size]), enlarge=size != FULL),
            libraries[kind] + settings.get(kind, ""),
        )
        for kind, sizes in _PICTURE_QUALITIES.items()
        if kind in libraries
        for size, qualities in sizes.items()
    ]


def machine_baselines(network: Network) -> list[Baseline]:
    """AVIF (speed 6), JPEG, WebP (method 6) and JPEG XL (effort 7), as far as Pillow has them.

    Each at full size, and with the sides halved and quartered (Lanczos); and, for a network that
    brings pictures to one size, at that size, reduced as the network does it itself.
    """
    libraries = _libraries()
    found = []
    for kind, sizes in _MACHINE_QUALITIES.items():
        if kind not in libraries:
            continue
        words = ",".join(f"{key}-{int(value)}" for key, value in _SETTINGS[kind].items())
        for size, qualities in sizes.items():
            if size == INPUT and network.input_size is None:
                continue
            reduce = network.prepare if size == INPUT else _reducer(_FACTORS[size])
            code = _coder(kind, reduce, enlarge=False)
            found.append(Baseline(kind + size, qualities, code, f"{libraries[kind]},{words}"))
    return found


def variants(kind: str) -> tuple[str, ...]:
    """Names of a codec's sizes, for machines."""
    return tuple(kind + size for size in (FULL, HALF, QUARTER, INPUT))


def smallest_within(
    baseline: Baseline, pixels: Pixels, budget: int
) -> tuple[int, int, Pixels] | None:
    """The best quality whose file is at most ``budget`` bytes: (quality, bytes, pixels) or None."""
    low, high, best = 0, 95, None
    while low <= high:
        quality = (low + high) // 2
        size, decoded = baseline.code(pixels, quality)
        if size <= budget:
            best, low = (quality, size, decoded), quality + 1
        else:
            high = quality - 1
    return best


def encode(pixels: Pixels, kind: str, quality: int) -> bytes:
    """uint8 [h, w, 3] as a file of ``kind``: avif, jpeg, webp or jxl; one thread."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind.upper(), quality=quality, **_SETTINGS[kind])
    return buffer.getvalue()


def _libraries() -> dict[str, str]:
    """Codecs that are there, with the libraries that their files depend on."""
    found = {}
    if features.check("avif"):
        found["avif"] = f"libavif-{features.version('avif')}"
    found["jpeg"] = f"pillow-{PIL.__version__},libjpeg-turbo"
    if features.check("webp"):
        found["webp"] = f"libwebp-{features.version('webp')}"
    try:
        import pillow_jxl  # noqa: F401  the extra `jxl`: registers itself with Pillow
    except ImportError:
        return found
    from importlib.metadata import version

    return found | {"jxl": f"pillow-jxl-plugin-{version('pillow-jxl-plugin')},effort-7"}


def _coder(
    kind: str, reduce: Callable[[Pixels], Pixels], *, enlarge: bool
) -> Callable[[Pixels, int], tuple[int, Pixels]]:
    def code(pixels: Pixels, quality: int) -> tuple[int, Pixels]:
        data = encode(reduce(pixels), kind, quality)
        decoded = Image.open(io.BytesIO(data)).convert("RGB")
        if enlarge:
            size = (pixels.shape[1], pixels.shape[0])
            decoded = decoded.resize(size, Image.Resampling.BICUBIC)
        return len(data), np.asarray(decoded)

    return code


def _reducer(factor: int) -> Callable[[Pixels], Pixels]:
    def reduce(pixels: Pixels) -> Pixels:
        if factor == 1:
            return pixels
        height, width = pixels.shape[:2]
        size = (max(1, width // factor), max(1, height // factor))
        return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))

    return reduce


# -- CompressAI's architectures, where their published weights can be had --------------------------

_MULTIPLE = 64
NEURAL_QUALITIES = (1, 2, 3)


def neural_baselines(architecture: str = "mbt2018-mean") -> list[Baseline]:
    """The architecture at low qualities, with published weights (MSE).

    Raises ModelError ``weights_missing`` where they cannot be downloaded.
    """
    return [
        Baseline(architecture, (q,), _neural_coder(load_model(architecture, q)))
        for q in NEURAL_QUALITIES
    ]


def load_model(architecture: str, quality: int, *, pretrained: bool = True) -> CompressionModel:
    """A CompressAI model ready to write real strings; untrained with ``pretrained=False``."""
    from codec.libraries import ensure_torchvision

    ensure_torchvision()
    from compressai.zoo import image_models

    if architecture not in image_models:
        known = ", ".join(sorted(image_models))
        raise ModelError("unknown_model", f"CompressAI has no {architecture!r}; it has {known}")
    try:
        model = image_models[architecture](quality=quality, metric="mse", pretrained=pretrained)
    except OSError as error:
        raise ModelError(
            "weights_missing", f"CompressAI's {architecture} weights cannot be had: {error}"
        ) from None
    model.update(force=not pretrained)
    return model.eval()


def round_trip(model: CompressionModel, pixels: Pixels) -> tuple[int, Pixels]:
    """(bytes of all strings, decoded uint8 [H, W, 3]) of one picture."""
    import torch

    height, width = pixels.shape[:2]
    below, right = -height % _MULTIPLE, -width % _MULTIPLE
    padded = np.pad(pixels, ((0, below), (0, right), (0, 0)), mode="edge")
    picture = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        # Its range coder trusts its bytes: it only ever sees what it wrote a moment ago.
        written = model.compress(picture)
        decoded = model.decompress(written["strings"], written["shape"])["x_hat"]
    size = sum(len(string) for group in written["strings"] for string in group)
    values = (decoded[0].permute(1, 2, 0).clamp(0, 1) * 255).round().to(torch.uint8)
    return size, values.numpy()[:height, :width]


def _neural_coder(model: CompressionModel) -> Callable[[Pixels, int], tuple[int, Pixels]]:
    return lambda pixels, quality: round_trip(model, pixels)
