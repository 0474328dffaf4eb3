"""An LPIPS-like distance: SqueezeNet 1.1 features with the published linear heads.

Zhang et al., "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", CVPR
2018. The backbone is the original Caffe SqueezeNet 1.1, not torchvision's, so values are close
to, but not equal to, those of the lpips package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

_CAFFE_MEANS_BGR = (104.006_99, 116.668_77, 122.678_91)
_TAPS = {"relu1": 0, "fire3": 1, "fire5": 2, "fire6": 3, "fire7": 4, "fire8": 5, "fire9": 6}
_POOL_BEFORE = {"fire2", "fire4", "fire6"}


class PerceptualDistance(nn.Module):
    """Distance of two batches of pictures, averaged over positions and summed over stages."""

    means: Tensor

    def __init__(self, backbone: Mapping[str, Tensor], heads: Mapping[str, Tensor]) -> None:
        """backbone: ``<layer>.weight``/``.bias`` (OIHW); heads: ``lin{k}`` weights [1, C, 1, 1]."""
        super().__init__()
        self.weights = nn.ParameterDict()
        for name, value in [*backbone.items(), *heads.items()]:
            self.weights[name.replace(".", "/")] = nn.Parameter(
                value.float().clone(), requires_grad=False
            )
        self.register_buffer("means", torch.tensor(_CAFFE_MEANS_BGR).view(1, 3, 1, 1))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two batches [n, 3, h, w] in -0.5..0.5 (RGB), sides >= 35 -> distance [n]."""
        total = first.new_zeros(len(first))
        features = self._features(torch.cat((first, second)))
        for stage, feature in enumerate(features):
            unit = feature / (feature.square().sum(1, keepdim=True).sqrt() + 1e-10)
            left, right = unit.chunk(2)
            head = self._weight(f"lin{stage}")
            total = total + F.conv2d((left - right).square(), head).mean((1, 2, 3))
        return total

    def _features(self, picture: Tensor) -> list[Tensor]:
        x = (picture.flip(1) + 0.5) * 255.0 - self.means
        x = F.relu(self._conv("conv1", x, stride=2, padding=0))
        taps = [x]
        for number in range(2, 10):
            name = f"fire{number}"
            if name in _POOL_BEFORE:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            squeezed = F.relu(self._conv(f"{name}/squeeze1x1", x))
            x = torch.cat(
                (
                    F.relu(self._conv(f"{name}/expand1x1", squeezed)),
                    F.relu(self._conv(f"{name}/expand3x3", squeezed, padding=1)),
                ),
                1,
            )
            if name in _TAPS:
                taps.append(x)
        return taps

    def _conv(self, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        weight, bias = self._weight(f"{name}/weight"), self._weight(f"{name}/bias")
        return F.conv2d(x, weight, bias, stride=stride, padding=padding)

    def _weight(self, name: str) -> Tensor:
        return cast(Tensor, self.weights[name])
