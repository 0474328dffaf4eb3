"""PSNR and MS-SSIM."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from training.evaluate.metrics.base import Figures, Pixels, as_tensor

_MS_SSIM_SIDE = 160
"""Five scales under an 11-pixel window need more than (11 - 1) * 2**4 pixels a side."""


class PixelDistances:
    """``psnr`` (dB, at most 99) and ``ms_ssim`` (0..1; not for sides of 160 pixels or less)."""

    name = "pixels"
    version = "1"

    def open(self, original: Pixels) -> Callable[[Pixels], Figures]:
        """What compares reconstructions (uint8 [H, W, 3]) with ``original``."""
        from pytorch_msssim import ms_ssim

        first = as_tensor(original)

        def compare(decoded: Pixels) -> Figures:
            second = as_tensor(decoded)
            error = float((first - second).square().mean())
            figures: Figures = {"psnr": 99.0 if error == 0 else min(99.0, -10 * math.log10(error))}
            if min(original.shape[:2]) > _MS_SSIM_SIDE:
                with torch.inference_mode():
                    figures["ms_ssim"] = float(ms_ssim(first + 0.5, second + 0.5, data_range=1.0))
            return figures

        return compare
