"""A discriminator: which of two pictures of the same coefficients is the photo."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

WIDTHS = (32, 64, 128)


class Discriminator(nn.Module):
    """Patches of a picture, and of what the bits alone say, to how real they look.

    Strided convolutions with spectral norms (Miyato et al., ICLR 2018), told the linear codec's
    picture (as Mentzer et al., NeurIPS 2020, tell theirs the latents), so that what it asks for is
    texture that belongs here.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 6
        for width in WIDTHS:
            layers += [
                spectral_norm(nn.Conv2d(channels, width, 4, stride=2, padding=1)),
                nn.LeakyReLU(0.2),
            ]
            channels = width
        layers.append(spectral_norm(nn.Conv2d(channels, 1, 3, padding=1)))
        self.layers = nn.Sequential(*layers)

    def forward(self, picture: Tensor, told: Tensor) -> Tensor:
        """Two batches [n, 3, h, w] in -0.5..0.5, sides multiples of 8 -> [n, 1, h / 8, w / 8]."""
        found: Tensor = self.layers(2 * torch.cat([picture, told], 1))
        return found


def hinge(real: Tensor, made: Tensor) -> Tensor:
    """The discriminator's loss of its two outputs (Lim and Ye 2017)."""
    return functional.relu(1 - real).mean() + functional.relu(1 + made).mean()
