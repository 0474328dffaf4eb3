"""How far two pictures are apart in the eyes of a frozen network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from training.fit.features.backbone import Backbone, BackboneShape


class FeatureDistance(nn.Module):
    """Mean squared difference of features, in units of each channel's own deviation.

    0 for equal pictures, about 2 for unrelated ones (two independent values of unit variance),
    whatever the stage; the average over the tapped stages.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], shape: BackboneShape, taps: tuple[int, ...]
    ) -> None:
        """tensors: the network, as the model store keeps it. taps: numbers of blocks."""
        super().__init__()
        self.backbone = Backbone(tensors, shape)
        self.taps = taps
        for number, deviation in zip(taps, self.backbone.deviations(taps), strict=True):
            # A channel that training all but switched off must not outweigh the others.
            floor = 0.2 * float(deviation.square().mean().sqrt())
            gain = 1 / deviation.clamp_min(floor)
            self.register_buffer(f"gain_{number}", gain.view(1, -1, 1, 1))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two batches [n, 3, h, w] in -0.5..0.5 (RGB), sides >= 32 -> distance float32 [n].

        Gradients flow to ``first`` only: ``second`` is the original.
        """
        with torch.no_grad():
            wanted = self.backbone(second, self.taps)
        total = first.new_zeros(len(first), dtype=torch.float32)
        found = self.backbone(first, self.taps)
        for number, mine, theirs in zip(self.taps, found, wanted, strict=True):
            gain = cast(Tensor, getattr(self, f"gain_{number}"))
            difference = (mine - theirs).float() * gain
            total = total + difference.square().mean((1, 2, 3))
        return total / len(self.taps)
