"""A differentiable stand-in for what context networks will spend on a value.

A value at a step is logistic about what its neighbours' own values make likely: its scale comes
from how large the values around it are, and those of the other channels there. It sees both sides,
where the stream's contexts see what was told before, so its bits are a little too few; training
needs their slope.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from codec.lapped_lattice.train.networks import Layout

_LEAST_SCALE, _MOST_SCALE = -3.0, 6.0


class RateModel(nn.Module):
    """Bits of values at a state of each sample."""

    around: Tensor

    def __init__(self, channels: int, width: int = 48) -> None:
        super().__init__()
        self.enter = nn.Conv2d(channels, width, 3, padding=1, bias=False)
        self.leave = nn.Conv2d(width, channels, 1)
        self.own = nn.Parameter(torch.full((channels, 1, 3, 3), 0.1))
        around = torch.ones(1, 1, 3, 3)
        around[..., 1, 1] = 0
        self.register_buffer("around", around)
        nn.init.zeros_(self.leave.weight)
        nn.init.constant_(self.leave.bias, -1.0)  # type: ignore[arg-type]

    def forward(self, values: Tensor, state: Tensor, layout: Layout) -> Tensor:
        """values: [n, C, h, w] -> bits of each sample [n]; state: int64 [n]."""
        told = layout.told[state][:, :, None, None]
        exact = values * told / layout.steps[state][:, :, None, None]
        noisy = exact + (torch.rand_like(exact) - 0.5) * told
        size = torch.log2(1 + exact.detach().round().abs())
        hidden = functional.conv2d(size, self.enter.weight * self.around, padding=1)
        near = functional.conv2d(size, self.own * self.around, padding=1, groups=size.shape[1])
        scale = (self.leave(functional.relu(hidden)) + near).clamp(_LEAST_SCALE, _MOST_SCALE)
        inverse = torch.exp(-scale)
        # Symmetric, for the precision of the upper tail.
        away = noisy.abs()
        chance = torch.sigmoid((0.5 - away) * inverse) - torch.sigmoid((-0.5 - away) * inverse)
        bits: Tensor = (-torch.log2(chance.clamp_min(1e-6)) * told).sum((1, 2, 3))
        return bits
