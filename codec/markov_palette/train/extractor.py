"""The edge's feature extractor: two scales, convolutions and ReLU, no normalisation.

Each scale is a linear projection of overlapping blocks (which training starts from, at the
picture's principal components) plus what the convolutions add to it. The latents are bounded by a
tanh: without it their scale runs away from palettes that are rebuilt only now and then, and
training diverges.

Texture is predicted from the semantic colours, and only the residual is quantised. The
prediction closes the loop over the semantic quantiser, so it is not part of the network that is
exported: it travels with the palette (see :mod:`codec.markov_palette.prediction`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from codec.markov_palette.networks import TexturePrediction, initialise

LATENT_BOUND = 2.0
SEMANTIC_STRIDE = 16
TEXTURE_STRIDE = 8
LATENT_GAIN = 0.04
"""Scale of the heads' outputs: lets their weights, and their updates, have the usual size."""


@dataclass(frozen=True)
class ExtractorConfig:
    """Latent channels per scale, widths at strides 4, 8 and 16, residual blocks at stride 16
    (``blocks``) and at stride 8 (one, and ``texture_blocks`` that only texture goes through)."""

    semantic_channels: int = 16
    texture_channels: int = 12
    widths: tuple[int, int, int] = (64, 128, 192)
    blocks: int = 2
    texture_blocks: int = 1

    @property
    def halo_positions(self) -> int:
        """Semantic positions around a tile beyond which nothing reaches its features."""
        shared = 3 + 4 + 2 * 4 + 2 * TEXTURE_STRIDE
        semantic = 2 * TEXTURE_STRIDE + 2 * self.blocks * SEMANTIC_STRIDE
        texture = 2 * self.texture_blocks * TEXTURE_STRIDE
        return math.ceil((shared + max(semantic, texture)) / SEMANTIC_STRIDE)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))) through a bottleneck of half the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width // 2, 3, padding=1)
        self.second = nn.Conv2d(width // 2, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width, h, w] -> the same shape, after a ReLU."""
        return nn.functional.relu(x + self.second(nn.functional.relu(self.first(x))))


class Extractor(nn.Module):
    """E: picture -> {semantic: stride 16, texture: stride 8}."""

    def __init__(self, config: ExtractorConfig) -> None:
        super().__init__()
        self.config = config
        quarter, eighth, sixteenth = config.widths
        self.stem = nn.Conv2d(3, quarter, 6, stride=4, padding=1)
        self.quarter = nn.Conv2d(quarter, quarter, 3, padding=1)
        self.to_eighth = nn.Conv2d(quarter, eighth, 4, stride=2, padding=1)
        self.eighth = ResidualBlock(eighth)
        self.texture_blocks = nn.ModuleList(
            ResidualBlock(eighth) for _ in range(config.texture_blocks)
        )
        self.texture = nn.Conv2d(eighth, config.texture_channels, 1)
        self.to_sixteenth = nn.Conv2d(eighth, sixteenth, 4, stride=2, padding=1)
        self.sixteenth = nn.ModuleList(ResidualBlock(sixteenth) for _ in range(config.blocks))
        self.semantic = nn.Conv2d(sixteenth, config.semantic_channels, 1)
        self.semantic_linear = _projection(config.semantic_channels, SEMANTIC_STRIDE)
        self.texture_linear = _projection(config.texture_channels, TEXTURE_STRIDE)
        self.prediction = TexturePrediction(config.semantic_channels, config.texture_channels)
        initialise(self)
        with torch.no_grad():
            self.stem.weight.mul_(2.0)  # pictures in -0.5..0.5 have a small variance
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    module.second.weight.mul_(0.25)
            for head in (self.semantic, self.texture):
                head.weight.zero_()  # the linear projections come first

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor]:
        """[n, 3, H, W] in -0.5..0.5, sides multiples of 16 -> (semantic, texture) in -2..2."""
        relu = nn.functional.relu
        x = relu(self.quarter(relu(self.stem(picture))))
        x = self.eighth(relu(self.to_eighth(x)))
        detail = x
        for block in self.texture_blocks:
            detail = block(detail)
        texture = self.texture(detail) + self.texture_linear(picture)
        x = relu(self.to_sixteenth(x))
        for block in self.sixteenth:
            x = block(x)
        semantic = self.semantic(x) + self.semantic_linear(picture)
        return bounded(semantic), bounded(texture)


def bounded(values: Tensor) -> Tensor:
    """The heads' outputs -> latents in -2..2, with slope 0.08 at 0."""
    return LATENT_BOUND * torch.tanh(LATENT_GAIN * values)


def _projection(channels: int, stride: int) -> nn.Conv2d:
    return nn.Conv2d(3, channels, 2 * stride, stride=stride, padding=stride // 2)
