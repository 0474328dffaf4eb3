"""What is put into the cut: an analysis for the edge, a synthesis for the cloud, and rate's model.

The analysis turns the head's features into few channels whose squared error is about what it
costs the tail's outputs; the synthesis turns their quantised values back. Both begin as the best
linear ones (:mod:`codec.lattice_palette.train.start`) and are trained end to end with the tail, as
in end-to-end optimised compression (Ballé et al. 2017). The rate model is needed for that only; the
bundle's own trees and context networks take its place.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from codec.kit.recipe import Part
from codec.lattice_palette.train.networks.base import CutScale, Features, Outputs, SplitNetwork


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
        narrow: Tensor = self.project(functional.relu(wide))
        return x + narrow


class Analysis(nn.Module):
    """Features of a scale -> channels to quantise, float32 [n, latent, h, w]."""

    def __init__(self, channels: int, latent: int, width: int, blocks: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Residual(channels, width, 5) for _ in range(blocks))
        self.project = nn.Conv2d(channels, latent, 1)

    def forward(self, features: Tensor) -> Tensor:
        for block in self.blocks:
            features = block(features)
        latents: Tensor = self.project(features)
        return latents


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
        x: Tensor = self.project(latents)
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


class ModelSettings(Part):
    """latent: channels that are quantised, a scale. widths and blocks: of edge and cloud side."""

    latent: int = Field(56, ge=1, le=256)
    analysis_width: int = Field(160, ge=1)
    analysis_blocks: int = Field(2, ge=0, le=8)
    synthesis_width: int = Field(192, ge=1)
    synthesis_blocks: int = Field(3, ge=0, le=8)
    rate_width: int = Field(96, ge=1)


class CutModel(nn.Module):
    """Everything trained, but for the tail."""

    steps: Tensor

    def __init__(
        self, scales: tuple[CutScale, ...], settings: ModelSettings, steps: Tensor, unit: float
    ) -> None:
        """steps: float32 [points], the quantiser's steps, finest first. unit: what a step of 1 is
        in the square root of the distance.
        """
        super().__init__()
        self.settings, self.unit = settings, unit
        self.register_buffer("steps", steps)
        size, points = settings, len(steps)
        self.analysis = nn.ModuleDict(
            {
                s.name: Analysis(s.channels, size.latent, size.analysis_width, size.analysis_blocks)
                for s in scales
            }
        )
        self.synthesis = nn.ModuleDict(
            {
                s.name: Synthesis(
                    s.channels, size.latent, size.synthesis_width, size.synthesis_blocks, points
                )
                for s in scales
            }
        )
        self.rate = nn.ModuleDict(
            {s.name: RateModel(size.latent, size.rate_width, points) for s in scales}
        )

    def parts(self, scale: str) -> tuple[Analysis, Synthesis, RateModel]:
        """Those of one scale."""
        found = self.analysis[scale], self.synthesis[scale], self.rate[scale]
        return cast(tuple[Analysis, Synthesis, RateModel], found)

    def latents(self, features: Mapping[str, Tensor]) -> Features:
        """Features at the cut -> channels to quantise."""
        return {name: part(features[name]) for name, part in self.analysis.items()}

    def features(self, colours: Mapping[str, Tensor], point: Tensor) -> Features:
        """Quantised channels -> what the tail takes; point: int64 [n]."""
        return {name: part(colours[name], point) for name, part in self.synthesis.items()}

    def reorder(self, order: Mapping[str, Tensor]) -> None:
        """Put the quantised channels of every scale into another order (int64 [latent])."""
        with torch.no_grad():
            for name, rows in order.items():
                analysis, synthesis, _ = self.parts(name)
                inner, outer = analysis.project, synthesis.project
                inner.weight.copy_(inner.weight[rows])
                assert inner.bias is not None
                inner.bias.copy_(inner.bias[rows])
                outer.weight.copy_(outer.weight[:, rows])

    @property
    def states(self) -> int:
        """How many synthesis tells apart: the operating points, until :meth:`tell_states`."""
        films = self.parts(next(iter(self.synthesis)))[1].films
        return len(films[0]) if len(films) else len(self.steps)

    def tell_states(self, points: Sequence[int]) -> None:
        """From now on synthesis is told a state; ``points``: the operating point of each."""
        rows = torch.tensor(points)
        for name in self.synthesis:
            part = self.parts(name)[1]
            films = [nn.Parameter(film.detach()[rows].clone()) for film in part.films]
            part.films = nn.ParameterList(films)


def tail_outputs(
    model: CutModel, network: SplitNetwork, colours: Mapping[str, Tensor], point: Tensor
) -> Outputs:
    """What the cloud makes of quantised channels."""
    return network.tail(model.features(colours, point))


def save_model(path: Path, model: CutModel, network: SplitNetwork) -> None:
    """Write model and tail as one safetensors file."""
    tensors = {f"model.{key}": value.contiguous() for key, value in model.state_dict().items()}
    tail = network.tail_parameters()
    tensors |= {f"tail.{n}": value.detach().contiguous() for n, value in enumerate(tail)}
    facts = {"settings": model.settings.model_dump_json(), "unit": repr(model.unit)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.clone() for key, value in tensors.items()}, path, facts)


def load_model(path: Path, network: SplitNetwork) -> CutModel:
    """Read what :func:`save_model` wrote; the network's tail is overwritten."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        facts = file.metadata()
    state = {key[6:]: value for key, value in tensors.items() if key.startswith("model.")}
    model = CutModel(
        network.info.scales,
        ModelSettings(**json.loads(facts["settings"])),
        state["steps"],
        float(facts["unit"]),
    )
    states = next(len(v) for key, v in state.items() if ".films." in key)
    if states != len(model.steps):
        model.tell_states([0] * states)
    model.load_state_dict(state)
    with torch.no_grad():
        for number, value in enumerate(network.tail_parameters()):
            value.copy_(tensors[f"tail.{number}"])
    return model
