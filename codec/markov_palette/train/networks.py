"""What only training builds in torch: the edge's extractor, and palettes while they are trained.

The extractor has two scales, convolutions and ReLU, no normalisation. Each scale is a linear
projection of overlapping blocks (which training starts from, at the picture's principal components)
plus what the convolutions add to it. The latents are bounded by a tanh: without it their scale runs
away from palettes that are rebuilt only now and then, and training diverges.

Texture is predicted from the semantic colours, and only the residual is quantised. The
prediction closes the loop over the semantic quantiser, so it is not part of the network that is
exported: it travels with the palette (see :mod:`codec.markov_palette.prediction`).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from codec.kit.bisect import (
    cheaper_child,
    fit_leaves,
    fit_leaves_for_rate,
    heap_of,
    nearest,
    split_bits,
)
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


@dataclass(frozen=True)
class PlaneLayout:
    """One plane: which scale (0 semantic, 1 texture), its channels, and its tree's depth.

    rate_weights: what a bit is worth at every split, as a share of the vectors' variance; without
    them vectors take their nearest leaves.
    """

    name: str
    scale: int
    first_channel: int
    channels: int
    depth: int
    rate_weights: tuple[float, ...] = ()


class TrainingPalette(nn.Module):
    """Trees of all planes as buffers; quantises a batch whose samples have different states."""

    depths: Tensor
    ready: Tensor

    def __init__(
        self, planes: tuple[PlaneLayout, ...], states: tuple[tuple[int, ...], ...]
    ) -> None:
        super().__init__()
        self.planes = planes
        self.register_buffer("depths", torch.tensor(states, dtype=torch.long))
        self.register_buffer("ready", torch.zeros((), dtype=torch.bool))
        for plane in planes:
            nodes = 2 ** (plane.depth + 1) - 1
            self.register_buffer(f"heap_{plane.name}", torch.zeros(nodes, plane.channels))
            self.register_buffer(
                f"counts_{plane.name}", torch.zeros(2**plane.depth, dtype=torch.long)
            )
            self.register_buffer(f"variance_{plane.name}", torch.ones(()))

    def heap(self, plane: PlaneLayout) -> Tensor:
        """The plane's nodes in heap order: [2**(depth+1) - 1, channels]."""
        return cast(Tensor, getattr(self, f"heap_{plane.name}"))

    def counts(self, plane: PlaneLayout) -> Tensor:
        """How many vectors chose each leaf when the tree was built."""
        return cast(Tensor, getattr(self, f"counts_{plane.name}"))

    def rate_weights(self, plane: PlaneLayout) -> list[float]:
        """What a bit is worth at every split, in squared error of this plane's vectors.

        The layout's are shares of the variance, or latents that grow would escape them.
        """
        variance = float(getattr(self, f"variance_{plane.name}"))
        return [weight * variance for weight in plane.rate_weights]

    @torch.no_grad()
    def rebuild(self, vectors: dict[str, Tensor]) -> None:
        """Fit trees anew on a sample of their planes' vectors: float32 [n, channels] each."""
        for plane in (plane for plane in self.planes if plane.name in vectors):
            mine = vectors[plane.name]
            variance = mine.var(0, correction=0).sum()
            cast(Tensor, getattr(self, f"variance_{plane.name}")).copy_(variance)
            if plane.rate_weights:
                leaves, counts = fit_leaves_for_rate(mine, self.rate_weights(plane))
            else:
                leaves, counts = fit_leaves(mine, plane.depth)
            self.heap(plane).copy_(heap_of(leaves, counts))
            self.counts(plane).copy_(counts)
        self.ready.fill_(True)

    def static_bits_per_pixel(self) -> float:
        """Entropy of the leaves of all planes when the trees were built, strides 16 and 8."""
        total = 0.0
        for plane in self.planes:
            shares = self.counts(plane).float() / self.counts(plane).sum().clamp_min(1)
            entropy = -(shares * shares.clamp_min(1e-9).log2()).sum()
            total += float(entropy) * 4**plane.scale / 256
        return total

    def vectors(self, scales: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
        """The planes' vectors: [n * h * w, channels] each."""
        return {plane.name: self._vectors(scales[plane.scale], plane) for plane in self.planes}

    @staticmethod
    def _vectors(values: Tensor, plane: PlaneLayout) -> Tensor:
        return _part(values, plane).reshape(-1, plane.channels)

    @torch.no_grad()
    def refit(self, scale: int, values: Tensor, rows: int = 16384) -> Tensor:
        """Fit the trees of one scale on its values [n, C, h, w]; returns their colours."""
        vectors = {
            plane.name: self._vectors(values, plane)
            for plane in self.planes
            if plane.scale == scale
        }
        self.rebuild({name: v[torch.randperm(len(v))[:rows]] for name, v in vectors.items()})
        return self.leaves(scale, values)

    def leaves(self, scale: int, values: Tensor) -> Tensor:
        """One scale's colours at state 0, with straight-through gradients: [n, C, h, w]."""
        flat = values.detach()
        parts = []
        for plane in (plane for plane in self.planes if plane.scale == scale):
            part = _part(flat, plane)
            leaf = self._assign(plane, part.reshape(-1, plane.channels))
            centres = self.heap(plane)[-(2**plane.depth) :]
            parts.append(centres[leaf].view(part.shape).permute(0, 3, 1, 2))
        return values + torch.cat(parts, 1) - flat

    def _assign(self, plane: PlaneLayout, vectors: Tensor) -> Tensor:
        """The leaf of each vector [n, channels]: nearest, or split by split of least cost."""
        heap = self.heap(plane)
        if not plane.rate_weights:
            return nearest(vectors, heap[-(2**plane.depth) :])
        node = torch.zeros(len(vectors), dtype=torch.long, device=vectors.device)
        for depth, weight in enumerate(self.rate_weights(plane), 1):
            children = heap[2**depth - 1 : 2 ** (depth + 1) - 1]
            bits = split_bits(self.counts(plane).view(2**depth, -1).sum(1))
            node = 2 * node + cheaper_child(vectors, node, children, bits, weight)
        return node

    def forward(
        self, scales: tuple[Tensor, Tensor], state: Tensor
    ) -> tuple[tuple[Tensor, Tensor], Tensor]:
        """Colours at each sample's state with straight-through gradients, and the commitment.

        scales: (semantic [n, C16, h, w], texture [n, C8, 2h, 2w]) float32. state: int64 [n].
        The commitment is the mean squared distance to the leaves (and half that to the state's
        colours), which keeps the extractor near the tree.
        """
        parts: list[list[Tensor]] = [[], []]
        commitment = scales[0].new_zeros(())
        for number, plane in enumerate(self.planes):
            values = _part(scales[plane.scale], plane)
            shape = values.shape
            flat = values.reshape(-1, plane.channels)
            heap = self.heap(plane)
            leaf = self._assign(plane, flat.detach())
            depth = self.depths[state, number].repeat_interleave(shape[1] * shape[2])
            node = (leaf >> (plane.depth - depth)) + (1 << depth) - 1
            colours = heap[node]
            commitment = commitment + (flat - heap[leaf + 2**plane.depth - 1]).square().mean()
            commitment = commitment + 0.25 * (flat - colours).square().mean()
            # A coarse colour follows its vector only loosely, and the root not at all: passing
            # their gradients on in full drives the latents into their bound.
            share = (depth.to(flat.dtype) / plane.depth)[:, None]
            quantised = colours + share * (flat - flat.detach())
            parts[plane.scale].append(quantised.view(shape).permute(0, 3, 1, 2))
        return (torch.cat(parts[0], 1), torch.cat(parts[1], 1)), commitment / len(self.planes)


def _part(values: Tensor, plane: PlaneLayout) -> Tensor:
    """A plane's channels of its scale, [n, C, h, w] -> [n, h, w, channels]."""
    part = values[:, plane.first_channel : plane.first_channel + plane.channels]
    return part.permute(0, 2, 3, 1)
