"""The decoder's networks: the backward diffusion in latent space, then synthesis of pixels.

    colours of I_t --LatentRestorer(t)--> fine latents (conditional mean) --Synthesis(t)--> RGB

Plain torch on purpose: the fit step runs on machines that have nothing else. No normalisation
layer looks at a whole picture, so that large pictures can be decoded in tiles with a halo.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class DecoderConfig:
    """Shape of a decoder. Channels of the stride 16 and stride 8 latents; widths per stride."""

    semantic_channels: int
    texture_channels: int
    states: int
    restorer_width: int = 96
    widths: tuple[int, ...] = (192, 128, 64, 32)
    blocks: tuple[int, ...] = (2, 3, 2, 1)
    embedding: int = 64
    variances: tuple[tuple[float, float], ...] = ()
    """Mean squared error of the restorer's (semantic, texture) estimates at every state."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; :meth:`from_dict` is the inverse."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> DecoderConfig:
        """Rebuild from :meth:`to_dict`'s values. Raises TypeError on unknown keys."""
        values = dict(values)
        for key in ("widths", "blocks"):
            if key in values:
                values[key] = tuple(values[key])
        if "variances" in values:
            values["variances"] = tuple((row[0], row[1]) for row in values["variances"])
        return cls(**values)


def initialise(module: nn.Module) -> None:
    """He's initialisation for every convolution, so that signals keep their scale.

    (He et al. 2015. Torch's default shrinks them layer by layer, and the latents with them.)
    """
    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
        elif isinstance(part, nn.ConvTranspose2d):
            taps = part.kernel_size[0] * part.kernel_size[1] / (part.stride[0] * part.stride[1])
            nn.init.normal_(part.weight, std=(2.0 / (part.in_channels * taps)) ** 0.5)
        else:
            continue
        if part.bias is not None:
            nn.init.zeros_(part.bias)


class FilmBlock(nn.Module):
    """Residual block whose hidden features are scaled and shifted by the state (FiLM)."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """x: [n, width, h, w]; state: [n, embedding]."""
        scale, shift = self.film(state)[:, :, None, None].chunk(2, dim=1)
        hidden = self.first(nn.functional.silu(x)) * (1 + scale) + shift
        out: Tensor = x + self.second(nn.functional.silu(hidden))
        return out


class FilmStack(nn.Module):
    """Residual blocks in a row, all conditioned on the state."""

    def __init__(self, width: int, blocks: int, embedding: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(FilmBlock(width, embedding) for _ in range(blocks))

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        """x: [n, width, h, w]; state: [n, embedding]."""
        for block in self.blocks:
            x = block(x, state)
        return x


class StateEmbedding(nn.Module):
    """A learned vector for each diffusion state."""

    def __init__(self, states: int, embedding: int) -> None:
        super().__init__()
        self.table = nn.Embedding(states, embedding)
        self.mix = nn.Sequential(nn.Linear(embedding, embedding), nn.SiLU())

    def forward(self, state: Tensor) -> Tensor:
        """state: int64 [n] -> [n, embedding]."""
        out: Tensor = self.mix(self.table(state))
        return out


class TexturePrediction(nn.Module):
    """Texture as the semantic latents predict it; only the residual is sent."""

    def __init__(self, semantic_channels: int, texture_channels: int) -> None:
        super().__init__()
        self.weights = nn.Conv2d(semantic_channels, 4 * texture_channels, 3, padding=1)

    def forward(self, semantic: Tensor) -> Tensor:
        """[n, C16, h, w] -> [n, C8, 2h, 2w]."""
        return nn.functional.pixel_shuffle(self.weights(semantic), 2)


class LatentRestorer(nn.Module):
    """D(c(I_t), t): the conditional mean of the fine latents given the received colours.

    Texture goes in and comes out as the residual that is coded.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        width, embedding = config.restorer_width, config.embedding
        self.embed = StateEmbedding(config.states, embedding)
        self.prediction = TexturePrediction(config.semantic_channels, config.texture_channels)
        self.enter_semantic = nn.Conv2d(config.semantic_channels, width, 3, padding=1)
        self.semantic = FilmStack(width, 2, embedding)
        self.leave_semantic = nn.Conv2d(width, config.semantic_channels, 3, padding=1)
        self.lift = nn.ConvTranspose2d(width, width, 4, stride=2, padding=1)
        self.enter_texture = nn.Conv2d(config.texture_channels, width, 3, padding=1)
        self.texture = FilmStack(width, 2, embedding)
        self.leave_texture = nn.Conv2d(width, config.texture_channels, 3, padding=1)

    def forward(self, semantic: Tensor, texture: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """[n, C16, h, w], [n, C8, 2h, 2w], int64 [n] -> estimates of the same shapes."""
        embedded = self.embed(state)
        coarse = self.semantic(self.enter_semantic(semantic), embedded)
        whole = texture + self.prediction(semantic)
        fine = self.texture(self.enter_texture(whole) + self.lift(coarse), embedded)
        return semantic + self.leave_semantic(coarse), texture + self.leave_texture(fine)


class LinearSynthesis(nn.Module):
    """Pixels as a linear function of each position's latents and its eight neighbours'.

    Training starts here, at the least squares solution; the network adds what is not linear.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.semantic = nn.Conv2d(config.semantic_channels, 3 * 16**2, 3, padding=1)
        self.texture = nn.Conv2d(config.texture_channels, 3 * 8**2, 3, padding=1)

    def forward(self, semantic: Tensor, texture: Tensor) -> Tensor:
        """[n, C16, h, w], [n, C8, 2h, 2w] -> [n, 3, 16h, 16w]."""
        coarse = nn.functional.pixel_shuffle(self.semantic(semantic), 16)
        return coarse + nn.functional.pixel_shuffle(self.texture(texture), 8)


class Synthesis(nn.Module):
    """Pixels from latents: a linear part, and a network at strides 16, 8, 4 (and so on).

    Between resolutions and at the end are overlapping transposed convolutions: anything else
    leaves a grid of dots.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        widths, embedding = config.widths, config.embedding
        self.embed = StateEmbedding(config.states, embedding)
        self.prediction = TexturePrediction(config.semantic_channels, config.texture_channels)
        self.linear = LinearSynthesis(config)
        self.enter_semantic = nn.Conv2d(config.semantic_channels, widths[0], 3, padding=1)
        self.enter_texture = nn.Conv2d(config.texture_channels, widths[1], 3, padding=1)
        self.stacks = nn.ModuleList(
            FilmStack(width, blocks, embedding)
            for width, blocks in zip(widths, config.blocks, strict=True)
        )
        self.lifts = nn.ModuleList(
            nn.ConvTranspose2d(here, there, 4, stride=2, padding=1)
            for here, there in pairwise(widths)
        )
        stride = 16 >> (len(widths) - 1)
        self.leave = nn.ConvTranspose2d(widths[-1], 3, stride + 4, stride=stride, padding=2)

    def forward(self, semantic: Tensor, texture: Tensor, state: Tensor) -> Tensor:
        """[n, C16, h, w], [n, C8, 2h, 2w], int64 [n] -> [n, 3, 16h, 16w] around -0.5..0.5."""
        embedded = self.embed(state)
        texture = texture + self.prediction(semantic)
        x = self.stacks[0](self.enter_semantic(semantic), embedded)
        x = self.lifts[0](x) + self.enter_texture(texture)
        x = self.stacks[1](x, embedded)
        for lift, stack in zip(self.lifts[1:], self.stacks[2:], strict=True):
            x = stack(lift(x), embedded)
        out: Tensor = self.leave(nn.functional.silu(x)) + self.linear(semantic, texture)
        return out


class Decoder(nn.Module):
    """The whole decoder: restorer, then synthesis."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.restorer = LatentRestorer(config)
        self.synthesis = Synthesis(config)
        initialise(self)
        with torch.no_grad():
            for module in self.modules():
                if isinstance(module, FilmBlock):
                    module.second.weight.mul_(0.25)
            for leaving in (self.restorer.leave_semantic, self.restorer.leave_texture):
                leaving.weight.zero_()
            self.synthesis.leave.weight.zero_()

    def forward(
        self, semantic: Tensor, texture: Tensor, state: Tensor
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Colours of a state -> (picture, estimates of the fine latents)."""
        estimates = self.restorer(semantic, texture, state)
        return self.synthesis(*estimates, state), estimates
