"""What only training builds in torch: the edge's analysis, and rounding at each sample's state."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from codec.lapped_lattice.networks import STRIDE, SUPPORT
from codec.lattice_palette.nested.palette import RATIO


class Analysis(nn.Module):
    """The linear transform, and what a small network adds to its values."""

    deviations: Tensor
    order: Tensor
    mix: Tensor

    def __init__(self, counts: tuple[int, int, int], width: int, blocks: int) -> None:
        """counts: channels of each of the three colours. width: of the network. blocks: pairs of
        its convolutions; 0 is the transform alone. Buffers: mix float32 [3, 3], from red, green and
        blue to the colours; order int64 [C], where channels are among those sorted by colour."""
        super().__init__()
        channels = sum(counts)
        self.register_buffer("deviations", torch.ones(channels))
        self.register_buffer("order", torch.arange(channels))
        self.register_buffer("mix", torch.eye(3))
        self.transforms = nn.ParameterList(torch.zeros(n, 1, SUPPORT, SUPPORT) for n in counts)
        self.inner = nn.ModuleList(nn.Conv2d(channels, width, 3, padding=1) for _ in range(blocks))
        self.outer = nn.ModuleList(nn.Conv2d(width, channels, 3, padding=1) for _ in range(blocks))
        for last in self.outer:
            assert isinstance(last, nn.Conv2d)
            assert last.bias is not None
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def networks(self) -> Iterator[nn.Parameter]:
        """What is not the transform's."""
        for part in (*self.inner, *self.outer):
            yield from part.parameters()

    def forward(self, picture: Tensor) -> Tensor:
        """Pictures [n, 3, H, W] in -0.5..0.5, sides multiples of 16 -> [n, C, H / 16, W / 16]."""
        wide = functional.conv2d(reflected(picture, STRIDE // 2), self.mix[:, :, None, None])
        parts = [
            functional.conv2d(wide[:, colour : colour + 1], kernels, stride=STRIDE)
            for colour, kernels in enumerate(self.transforms)
        ]
        values = torch.cat(parts, 1)[:, self.order]
        deviations = self.deviations[:, None, None]
        for inner, outer in zip(self.inner, self.outer, strict=True):
            values = values + outer(functional.relu(inner(values / deviations))) * deviations
        return values


def reflected(picture: Tensor, by: int) -> Tensor:
    """[n, c, H, W] mirrored beyond its edges, the edge's own pixels first."""
    tall = torch.cat([picture[:, :, :by].flip(2), picture, picture[:, :, -by:].flip(2)], 2)
    return torch.cat([tall[:, :, :, :by].flip(3), tall, tall[:, :, :, -by:].flip(3)], 3)


@dataclass(frozen=True, eq=False)
class Layout:
    """How deep each channel is told.

    step: of the finest lattice, the same for all. times: int64 [states, C], by how many depths each
    channel is coarser than that at each state. told: bool, the same shape, whether anything is.
    """

    step: float
    times: Tensor
    told: Tensor

    @classmethod
    def of(
        cls,
        groups: tuple[int, ...],
        depths: tuple[int, ...],
        states: tuple[tuple[int, ...], ...],
        step: float,
    ) -> Layout:
        """groups: channels of each plane. depths: each plane's deepest. step: of the finest."""
        rows, sizes = torch.tensor(states), torch.tensor(groups)
        times = (torch.tensor(depths) - rows).repeat_interleave(sizes, 1)
        return cls(step, times, (rows > 0).repeat_interleave(sizes, 1))

    @property
    def steps(self) -> Tensor:
        """Float32 [states, C], of each channel's lattice at each state."""
        return self.step * float(RATIO) ** self.times

    def round(self, values: Tensor, state: Tensor, dead: float, lean: float) -> Tensor:
        """Values as a decoder has them, gradients straight through.

        values: [n, C, h, w]; state: int64 [n]; dead, lean: see
        :mod:`codec.lapped_lattice.lattice`.
        """
        exact = values.detach() / self.step
        size = torch.floor(exact.abs() + 0.5 - dead / 2 * (1 + (exact.abs() < 1).float()))
        times, told = (rows[state][:, :, None, None] for rows in (self.times, self.told))
        ratio = float(RATIO) ** times
        size = torch.floor(size.clamp_min(0) / ratio)
        share = lean * (1 - 1 / ratio) * (size > 0)
        found = exact.sign() * (size + share) * self.steps[state][:, :, None, None]
        return values * told + (found - values.detach()) * told
