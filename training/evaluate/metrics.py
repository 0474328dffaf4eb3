"""Distances between a picture and its reconstruction."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from training.fit.perceptual import PerceptualDistance

Pixels = npt.NDArray[np.uint8]


class Metrics:
    """PSNR (dB), MS-SSIM (0..1), and the LPIPS-like distance when its weights are there."""

    def __init__(self, backbone: Path | None = None, heads: Path | None = None) -> None:
        """backbone, heads: safetensors of the model store, both or neither."""
        self._perceptual = (
            PerceptualDistance(load_file(backbone), load_file(heads)).eval()
            if backbone is not None and heads is not None
            else None
        )

    def __call__(self, original: Pixels, decoded: Pixels) -> dict[str, float]:
        """Both uint8 [H, W, 3] of equal size."""
        from pytorch_msssim import ms_ssim

        first, second = _tensor(original), _tensor(decoded)
        error = float((first - second).square().mean())
        figures = {"psnr": 99.0 if error == 0 else -10 * math.log10(error)}
        with torch.inference_mode():
            if min(original.shape[:2]) > 160:
                figures["ms_ssim"] = float(ms_ssim(first + 0.5, second + 0.5, data_range=1.0))
            if self._perceptual is not None and min(original.shape[:2]) >= 35:
                figures["lpips_like"] = float(self._perceptual(first, second)[0])
        return figures


def _tensor(pixels: Pixels) -> torch.Tensor:
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255 - 0.5
