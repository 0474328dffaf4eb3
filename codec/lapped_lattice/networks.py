"""The cloud's decoders of lapped coefficients: the inverse transform, and what networks add to it.

coefficients --+--> refinement at the transform's stride --> coefficients --> inverse transform --+
               |                 |                                                                |
               +-----------------+--> hidden values --> detail at stride 2 --(+)--> picture <-----+

Both networks end in layers that training starts from at zero: an untrained decoder is the linear
codec, bit for bit, and a trained one starts from it. One that is ``sampled`` also learns how far
coefficients lie from what is told of them, and draws that: texture in place of its mean, which is
none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

STRIDE = 16
SUPPORT = 2 * STRIDE
LITTLE = 1.8
"""Before training a sampled decoder draws softplus(-1.8), 0.15, of its doubts: half of what
rounding to a lattice's step leaves. From nothing it learns nothing, as no loss falls with the first
grain."""
HALO = 1
"""Positions around a picture's edge that its pixels are made of: the coefficients mirrored."""


@dataclass(frozen=True)
class DecoderConfig:
    """channels: of the transform. states: of the bundle. width, blocks: of the network at stride
    16. detail_width, detail_blocks: at stride detail_stride, a power of two. (At stride 4 as many
    multiplications gain a tenth of what they gain at 2: a cell's pixels are more than its channels
    can tell apart.) carried: channels a detail cell gets from below. sampled: 1 for a decoder that
    draws what is not told.
    """

    channels: int
    states: int
    width: int = 128
    blocks: int = 2
    detail_width: int = 48
    detail_blocks: int = 1
    carried: int = 24
    sampled: int = 0
    detail_stride: int = 2

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DecoderConfig:
        """What :meth:`to_dict` gave, or gave before there was all of that. Raises TypeError for
        unknown, lacking or unfit values."""
        values = {"sampled": 0, "detail_stride": 4} | dict(values)
        known = {field.name for field in fields(cls)}
        wrong = set(values) ^ known
        if wrong or not all(isinstance(v, int) and v >= 0 for v in values.values()):
            raise TypeError(f"settings of a decoder are whole numbers by the names {sorted(known)}")
        if values["detail_stride"] not in (1, 2, 4, 8, 16):
            raise TypeError("a decoder's detail_stride is a power of two up to 16")
        return cls(**values)

    @property
    def reach(self) -> int:
        """Positions to each side that a position's pixels depend on."""
        latent = 2 + 2 * self.blocks
        detail = -(-(2 + 2 * self.detail_blocks) * self.detail_stride // STRIDE)
        return latent + detail + 1


class Block(nn.Module):
    """x + second(relu(first(x))), the inner values scaled and shifted by the state."""

    def __init__(self, width: int, states: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.scale = nn.Embedding(states, width)
        self.shift = nn.Embedding(states, width)
        nn.init.ones_(self.scale.weight)
        nn.init.zeros_(self.shift.weight)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """x: [n, width, h, w]; state: int64 [n] -> [n, width, h, w]."""
        inner = self.first(x) * _spread(self.scale(state)) + _spread(self.shift(state))
        added: Tensor = self.second(functional.relu(inner))
        return x + added


class LappedDecoder(nn.Module):
    """Coefficients at a state to a picture: of least error, or what else it was trained for.

    Buffers, which the bundle's making sets: deviations float32 [C], of the values; doubts float32
    [states, C], how far off values may be at a state, in which what is added to them is told, so
    that values that are known well are left as they are by little noise in weights; parity [C, 2],
    -1 or 1, of the functions down and across; colours int64 [C], of three; mix [3, 3], from the
    three colours to red, green and blue.
    """

    deviations: Tensor
    doubts: Tensor
    parity: Tensor
    colours: Tensor
    mix: Tensor

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        channels, width, detail = config.channels, config.width, config.detail_width
        self.register_buffer("deviations", torch.ones(channels))
        self.register_buffer("doubts", torch.ones(config.states, channels))
        self.register_buffer("parity", torch.ones(channels, 2))
        self.register_buffer("colours", torch.zeros(channels, dtype=torch.long))
        self.register_buffer("mix", torch.eye(3))
        self.synthesis = nn.Parameter(torch.zeros(channels, 1, SUPPORT, SUPPORT))
        self.enter = nn.Conv2d(channels, width, 3, padding=1)
        self.told = nn.Embedding(config.states, width)
        self.blocks = nn.ModuleList(Block(width, config.states) for _ in range(config.blocks))
        self.leave = nn.Conv2d(width, channels, 1)
        self.spread = nn.Conv2d(width, channels, 1) if config.sampled else None
        cells = (STRIDE // config.detail_stride) ** 2
        pixels = 3 * config.detail_stride**2
        self.carry = nn.Conv2d(width, config.carried * cells, 1)
        self.enter_detail = nn.Conv2d(pixels + config.carried, detail, 3, padding=1)
        self.detail = nn.ModuleList(
            Block(detail, config.states) for _ in range(config.detail_blocks)
        )
        self.leave_detail = nn.Conv2d(detail, pixels, 3, padding=1)
        for name, module in self.named_modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)
                if name.endswith(".second"):
                    with torch.no_grad():
                        module.weight.mul_(0.25)
        nn.init.zeros_(self.told.weight)
        for last in (self.leave, self.leave_detail, self.spread):
            if last is not None:
                nn.init.zeros_(last.weight)

    def forward(
        self,
        values: Tensor,
        state: Tensor,
        edges: Edges | None = None,
        noise: Tensor | None = None,
    ) -> Tensor:
        """values: float32 [n, C, h, w]; state: int64 [n] -> pictures [n, 3, 16 h, 16 w], about
        -0.5..0.5. edges: which sides are the picture's; None is all of them. noise: what a sampled
        decoder draws, of mean 0 and variance 1, in the shape of ``values``; None is its mean."""
        relu = functional.relu
        known = values / self.deviations[:, None, None]
        hidden = self.enter(known) + _spread(self.told(state))
        for block in self.blocks:
            hidden = block(hidden, state)
        hidden = relu(hidden)
        away = self.leave(hidden)
        if self.spread is not None and noise is not None:
            away = away + functional.softplus(self.spread(hidden) - LITTLE) * noise
        better = values + away * _spread(self.doubts[state])
        picture = self.linear(better, edges)
        step = self.config.detail_stride
        cells = functional.pixel_shuffle(self.carry(hidden), STRIDE // step)
        folded = functional.pixel_unshuffle(picture, step)
        entering = torch.cat([4 * folded, relu(cells)], 1)
        # So narrow convolutions take a third less time on a core.
        detail = self.enter_detail(entering.contiguous(memory_format=torch.channels_last))
        for block in self.detail:
            detail = block(detail, state)
        added = 0.1 * self.leave_detail(relu(detail))
        return picture + functional.pixel_shuffle(added, step)

    def networks(self) -> Iterator[nn.Parameter]:
        """What is not the transform's."""
        return (p for name, p in self.named_parameters() if name != "synthesis")

    def linear(self, values: Tensor, edges: Edges | None = None) -> Tensor:
        """The inverse transform alone: [n, C, h, w] -> [n, 3, 16 h, 16 w]."""
        wide = mirrored(values, self.parity, edges)
        margin = HALO * STRIDE + STRIDE // 2
        parts = []
        for colour in range(3):
            here = torch.nonzero(self.colours == colour)[:, 0]
            part = functional.conv_transpose2d(wide[:, here], self.synthesis[here], stride=STRIDE)
            parts.append(part[:, :, margin:-margin, margin:-margin])
        return functional.conv2d(torch.cat(parts, 1), self.mix[:, :, None, None])


SHARED = ("synthesis", "deviations", "doubts", "parity", "colours", "mix")
"""What all decoders of the same bits have in common: the inverse transform, and what was set."""


@dataclass(frozen=True)
class Edges:
    """Sides of a window of coefficients at which the picture ends."""

    top: bool = True
    left: bool = True
    bottom: bool = True
    right: bool = True


def mirrored(values: Tensor, parity: Tensor, edges: Edges | None = None) -> Tensor:
    """Coefficients with a border of one position, as those of a picture that goes on mirrored:
    [n, C, h, w] -> [n, C, h + 2, w + 2]. parity: [C, 2], -1 or 1, down and across. Sides that are
    not the picture's have zeros."""
    edges = edges or Edges()
    down, across = parity[:, 0, None, None], parity[:, 1, None, None]
    top, bottom = values[:, :, :1] * down, values[:, :, -1:] * down
    tall = torch.cat([top * edges.top, values, bottom * edges.bottom], 2)
    left, right = tall[:, :, :, :1] * across, tall[:, :, :, -1:] * across
    return torch.cat([left * edges.left, tall, right * edges.right], 3)


def _spread(values: Tensor) -> Tensor:
    """[n, width] -> [n, width, 1, 1]."""
    return values[:, :, None, None]
