"""What is put into the cut: an analysis for the edge, a synthesis for the cloud, and rate's model.

The analysis turns the head's features into few channels whose squared error is about what it
costs the tail's outputs; the synthesis turns their quantised values back. Both begin as the best
linear ones (:mod:`training.split.sensitivity`) and are trained end to end with the tail, as in
end-to-end optimised compression (Ballé et al. 2017). The rate model is needed for that only; the
bundle's own trees and context networks take its place.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class Residual(nn.Module):
    """Widen, filter each channel, project, add. Begins as the identity."""

    def __init__(self, channels: int, width: int, kernel: int) -> None:
        super().__init__()
        self.expand = nn.Conv2d(channels, width, 1)
        self.depthwise = nn.Conv2d(width, width, kernel, padding=kernel // 2, groups=width)
        self.project = nn.Conv2d(width, channels, 1)
        nn.init.zeros_(self.project.weight)
        assert self.project.bias is not None
        nn.init.zeros_(self.project.bias)

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:
        """[n, channels, h, w]; film: [n, 2, width], scale and shift inside."""
        wide = functional.relu(self.expand(x))
        wide = self.depthwise(wide)
        if film is not None:
            wide = wide * (1 + film[:, 0, :, None, None]) + film[:, 1, :, None, None]
        return x + self.project(functional.relu(wide))


class Analysis(nn.Module):
    """Features of a scale -> channels to quantise, float32 [n, latent, h, w]."""

    def __init__(self, channels: int, latent: int, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(channels, width, 5) for _ in range(blocks))
        self.project = nn.Conv2d(channels, latent, 1)

    def forward(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        return self.project(features)


class Synthesis(nn.Module):
    """Quantised channels and the state -> features as the tail takes them."""

    def __init__(self, channels: int, latent: int, width: int, blocks: int, states: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(latent, channels, 1)
        self.blocks = nn.ModuleList(Residual(channels, width, 3) for _ in range(blocks))
        self.films = nn.ParameterList(
            nn.Parameter(torch.zeros(states, 2, width)) for _ in range(blocks)
        )

    def forward(self, latents: Tensor, state: Tensor) -> Tensor:
        """latents: [n, latent, h, w]; state: int64 [n]."""
        x = self.project(latents)
        for block, film in zip(self.blocks, self.films, strict=True):
            x = block(x, film[state])
        return x


class RateModel(nn.Module):
    """Bits of quantised channels, given those before them in raster order.

    A logistic distribution a value, its mean and scale a function of the causal neighbours and of
    the operating point.
    """

    mask: Tensor

    def __init__(self, latent: int, width: int, points: int) -> None:
        super().__init__()
        self.look = nn.Conv2d(latent, width, 3, padding=1)
        mask = torch.zeros(3, 3)
        mask[0] = 1
        mask[1, 0] = 1
        self.register_buffer("mask", mask)
        self.point = nn.Parameter(torch.zeros(points, width))
        self.middle = nn.Conv2d(width, width, 1)
        self.out = nn.Conv2d(width, 2 * latent, 1)
        self.scale = nn.Parameter(torch.zeros(points, latent))
        nn.init.zeros_(self.out.weight)
        assert self.out.bias is not None
        nn.init.zeros_(self.out.bias)

    def forward(self, values: Tensor, point: Tensor) -> Tensor:
        """values: [n, latent, h, w], quantised to whole numbers or with noise. Bits: [n, latent,
        h, w].
        """
        weight = self.look.weight * self.mask
        # A signed root, so that rare large values do not shout.
        seen = values.sign() * (values.abs() + 0.25).sqrt() - 0.5 * values.sign()
        x = functional.conv2d(seen, weight, self.look.bias, padding=1)
        x = functional.relu(x + self.point[point][:, :, None, None])
        mean, log_scale = self.out(functional.relu(self.middle(x))).chunk(2, 1)
        log_scale = log_scale + self.scale[point][:, :, None, None]
        inverse = torch.exp(-log_scale.clamp(-4, 6))
        # Symmetric, for the precision of the upper tail.
        away = (values - mean).abs()
        chance = torch.sigmoid((0.5 - away) * inverse) - torch.sigmoid((-0.5 - away) * inverse)
        return -torch.log2(chance.clamp_min(1e-6))
