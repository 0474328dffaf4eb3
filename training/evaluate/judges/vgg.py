"""LPIPS-like and DISTS-like distances on a VGG16 that training never saw.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
2018; Ding et al., "Image Quality Assessment: Unifying Structure and Texture Similarity", TPAMI
2020.

Two honest differences from the published metrics, because of which values are comparable among
codecs here but not with papers. The convolutions are HED's: the original (Caffe) VGG16 fine-tuned
to find edges. And the published weights of LPIPS and DISTS belong to the channels of torchvision's
VGG16, which was trained from scratch, so that its channels are others: here every channel of a
stage has the mean of the stage's published weights, which keeps the balance between stages and
claims nothing about channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from codec.kit.losses.textures import as_picture
from training.evaluate.measure import Figures
from training.evaluate.photos import Pixels

_MEANS_RGB = (122.67892, 116.66877, 104.00699)
_CONVOLUTIONS = (2, 2, 3, 3, 3)
_CHANNELS = (3, 64, 128, 256, 512, 512)
_DISTS_SHORT_SIDE = 256
_SMALLEST_SIDE = 32

Pool = Callable[[Tensor], Tensor]


class Vgg16(nn.Module):
    """The outputs of the last convolution of all five stages, after ReLU."""

    means: Tensor

    def __init__(self, weights: Mapping[str, Tensor], *, bf16: bool = False) -> None:
        """weights: ``convB_K.weight`` and ``.bias``. bf16: all but the first convolution so."""
        super().__init__()
        self.weights = nn.ParameterDict()
        for name, value in weights.items():
            kind = torch.bfloat16 if bf16 and not name.startswith("conv1_1.") else torch.float32
            frozen = nn.Parameter(value.to(kind), requires_grad=False)
            self.weights[name.replace(".", "/")] = frozen
        self.register_buffer("means", torch.tensor(_MEANS_RGB).view(1, 3, 1, 1))

    def forward(self, picture: Tensor, pool: Pool) -> list[Tensor]:
        """[n, 3, h, w] in -0.5..0.5 -> five float32 maps; pool: what halves between stages."""
        x = (picture + 0.5) * 255.0 - self.means
        taps = []
        for stage, count in enumerate(_CONVOLUTIONS, 1):
            for number in range(1, count + 1):
                weight = cast(Tensor, self.weights[f"conv{stage}_{number}/weight"])
                bias = cast(Tensor, self.weights[f"conv{stage}_{number}/bias"])
                x = F.conv2d(x.to(weight.dtype), weight, bias, padding=1).relu_()
            taps.append(x.float())
            if stage < len(_CONVOLUTIONS):
                x = pool(x)
        return taps


class VggDistances:
    """``lpips_vgg`` and ``dists_vgg`` of pictures of at least 32 pixels a side."""

    name = "vgg"

    def __init__(
        self,
        backbone: Mapping[str, Tensor],
        lpips: Mapping[str, Tensor],
        dists: Mapping[str, Tensor],
        *,
        bf16: bool | None = None,
    ) -> None:
        """backbone, lpips, dists: the model store's vgg16-hed, lpips-vgg and dists-weights.

        bf16: None takes it where the processor multiplies it natively: three times as fast, and
        a distance changes by about one part in a thousand.
        """
        bf16 = torch.ops.mkldnn._is_mkldnn_bf16_supported() if bf16 is None else bf16
        self.version = "1-bf16" if bf16 else "1-float32"
        self._network = Vgg16(backbone, bf16=bf16).eval()
        self._stage_weights = [float(lpips[f"lin{stage}.weight"].mean()) for stage in range(5)]
        alpha, beta = dists["alpha"].double(), dists["beta"].double()
        total = float(alpha.sum() + beta.sum())
        # A stage's share of all weights, spread evenly over its channels.
        self._alpha = [float(part.sum()) / total for part in torch.split(alpha, list(_CHANNELS))]
        self._beta = [float(part.sum()) / total for part in torch.split(beta, list(_CHANNELS))]

    def open(self, original: Pixels) -> Callable[[Pixels], Figures]:
        """What compares reconstructions (uint8 [H, W, 3]) with ``original``."""
        if min(original.shape[:2]) < _SMALLEST_SIDE:
            return lambda decoded: {}
        with torch.inference_mode():
            units, features = self._describe(original)
            expected = [_moments(feature) for feature in features]

        def compare(decoded: Pixels) -> Figures:
            with torch.inference_mode():
                others, given = self._describe(decoded)
                lpips = sum(
                    weight * _mean_squared_distance(left, right)
                    for weight, left, right in zip(self._stage_weights, units, others, strict=True)
                )
                similarity = 0.0
                for stage, (feature, other) in enumerate(zip(features, given, strict=True)):
                    luminance, structure = _similarities(
                        feature, expected[stage], other, _moments(other)
                    )
                    similarity += self._alpha[stage] * luminance + self._beta[stage] * structure
            return {"lpips_vgg": lpips, "dists_vgg": max(0.0, 1.0 - similarity)}

        return compare

    def _describe(self, pixels: Pixels) -> tuple[list[Tensor], list[Tensor]]:
        """Unit features for LPIPS; the picture and its features for DISTS."""
        picture = as_picture(pixels)
        maps = self._network(picture, _max_pool)
        units = [x / (torch.linalg.vector_norm(x, dim=1, keepdim=True) + 1e-10) for x in maps]
        reduced = _reduce(picture)
        return units, [reduced + 0.5, *self._network(reduced, _l2_pool)]


def _mean_squared_distance(left: Tensor, right: Tensor) -> float:
    """Squared distance of two maps' vectors, mean over positions."""
    difference = torch.flatten(left - right)
    return float(torch.dot(difference, difference)) / (left.shape[2] * left.shape[3])


def _max_pool(x: Tensor) -> Tensor:
    return F.max_pool2d(x, 2)


def _l2_pool(x: Tensor) -> Tensor:
    """DISTS' pooling: the root of squares under a 3x3 Hann window, every second position."""
    edge = torch.from_numpy(np.hanning(5)[1:-1].astype(np.float32))
    window = torch.outer(edge, edge)
    window = (window / window.sum()).expand(x.shape[1], 1, 3, 3)
    squares = x.float().square()
    return (F.conv2d(squares, window, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def _reduce(picture: Tensor) -> Tensor:
    """The short side at most 256 pixels, the size that DISTS was fitted for."""
    height, width = picture.shape[2:]
    factor = _DISTS_SHORT_SIDE / min(height, width)
    if factor >= 1:
        return picture
    size = (round(height * factor), round(width * factor))
    return F.interpolate(picture, size, mode="bilinear", antialias=True, align_corners=False)


def _moments(feature: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance over positions, a channel."""
    variance, mean = torch.var_mean(feature, (2, 3), correction=0)
    return mean, variance


def _similarities(
    first: Tensor,
    first_moments: tuple[Tensor, Tensor],
    second: Tensor,
    second_moments: tuple[Tensor, Tensor],
) -> tuple[float, float]:
    """DISTS' texture and structure similarity, means over the channels of a stage."""
    (mean_1, variance_1), (mean_2, variance_2) = first_moments, second_moments
    covariance = (first * second).mean((2, 3)) - mean_1 * mean_2
    texture = (2 * mean_1 * mean_2 + 1e-6) / (mean_1.square() + mean_2.square() + 1e-6)
    structure = (2 * covariance + 1e-6) / (variance_1 + variance_2 + 1e-6)
    return float(texture.mean()), float(structure.mean())
