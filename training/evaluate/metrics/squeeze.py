"""The LPIPS-like distance that the training loss holds too; beside it stands VGG's."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from codec.kit.losses import PerceptualDistance
from training.evaluate.metrics.base import Figures, Pixels, as_tensor

_SMALLEST_SIDE = 35


class SqueezeDistance:
    """``lpips_squeeze`` of pictures of at least 35 pixels a side."""

    name = "squeeze"
    version = "1"

    def __init__(
        self, backbone: Mapping[str, torch.Tensor], heads: Mapping[str, torch.Tensor]
    ) -> None:
        """backbone, heads: the model store's squeezenet-1.1 and lpips-squeeze."""
        self._distance = PerceptualDistance(backbone, heads).eval()

    def open(self, original: Pixels) -> Callable[[Pixels], Figures]:
        """What compares reconstructions (uint8 [H, W, 3]) with ``original``."""
        first = as_tensor(original)

        def compare(decoded: Pixels) -> Figures:
            if min(original.shape[:2]) < _SMALLEST_SIDE:
                return {}
            with torch.inference_mode():
                return {"lpips_squeeze": float(self._distance(first, as_tensor(decoded))[0])}

        return compare
