"""Analysis, synthesis and rate model of every scale of a cut, and how they begin and are kept."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from training.split.bottleneck import Analysis, RateModel, Synthesis
from training.split.network import CutScale, Features, Outputs, SplitNetwork


@dataclass(frozen=True)
class ModelSettings:
    """latent: channels that are quantised, a scale. widths and blocks: of edge and cloud side."""

    latent: int = 56
    analysis_width: int = 160
    analysis_blocks: int = 2
    synthesis_width: int = 192
    synthesis_blocks: int = 3
    rate_width: int = 96


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
                inner, outer = self.analysis[name].project, self.synthesis[name].project
                inner.weight.copy_(inner.weight[rows])
                inner.bias.copy_(inner.bias[rows])
                outer.weight.copy_(outer.weight[:, rows])

    def tell_states(self, points: Sequence[int]) -> None:
        """From now on synthesis is told a state; ``points``: the operating point of each."""
        rows = torch.tensor(points)
        for part in self.synthesis.values():
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
    facts = {"settings": json.dumps(asdict(model.settings)), "unit": repr(model.unit)}
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: value.clone() for key, value in tensors.items()}, path, facts)


def load_model(path: Path, network: SplitNetwork) -> CutModel:
    """Read what :func:`save_model` wrote; the network's tail is overwritten."""
    tensors = load_file(path)
    with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
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
