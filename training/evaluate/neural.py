"""CompressAI's architectures as rivals, where their published weights can be had."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codec.kit.libraries.torchvision_ops import ensure_torchvision
from shared.errors import ModelError
from training.evaluate.rivals import Rival

if TYPE_CHECKING:
    from compressai.models import CompressionModel

Pixels = npt.NDArray[np.uint8]
_MULTIPLE = 64
QUALITIES = (1, 2, 3)


def neural_rivals(architecture: str = "mbt2018-mean") -> list[Rival]:
    """The architecture at low qualities, with published weights (MSE).

    Raises ModelError ``weights_missing`` where they cannot be downloaded.
    """
    return [Rival(architecture, (q,), _coder(load_model(architecture, q))) for q in QUALITIES]


def load_model(architecture: str, quality: int, *, pretrained: bool = True) -> CompressionModel:
    """A CompressAI model ready to write real strings; untrained with ``pretrained=False``."""
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


def _coder(model: CompressionModel):  # type: ignore[no-untyped-def]  # Rival's Callable
    return lambda pixels, quality: round_trip(model, pixels)
