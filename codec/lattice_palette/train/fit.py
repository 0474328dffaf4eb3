"""Two stages: bottleneck and tail end to end, then the tail behind real palettes."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from codec.kit.recipe import Part
from codec.lattice_palette.train.bottleneck import CutModel, tail_outputs
from codec.lattice_palette.train.networks.base import OutputKind, Outputs, SplitNetwork
from codec.lattice_palette.train.views import Views

Report = Callable[[int, int, dict[str, float]], None]
Quantiser = Callable[[Mapping[str, Tensor], int], dict[str, Tensor]]
"""Channels (float32 [n, C, h, w] by scale) and a state -> what decoders get of them."""
Rows = npt.NDArray[np.int64]
_CLIP = 10.0
_BITS_SCALE = 16000.0
"""Only sets the loss's size."""


class StageSettings(Part):
    """Adam with a warm-up and a cosine schedule; rates of the bottleneck, tail and rate model.
    bf16: the network behind the cut computes in bfloat16, which takes many times as long on
    processors that have no instructions for it."""

    steps: int = Field(2400, ge=0)
    batch: int = Field(8, ge=1)
    learning_rate: float = Field(4e-4, gt=0, lt=1)
    tail_learning_rate: float = Field(1e-4, ge=0, lt=1)
    rate_learning_rate: float = Field(3e-3, gt=0, lt=1)
    warm_up: int = Field(150, ge=1)
    average: float = Field(0.997, ge=0, lt=1)
    seed: int = 1
    bf16: bool = True


def train_bottleneck(
    model: CutModel,
    network: SplitNetwork,
    views: Views,
    settings: StageSettings,
    *,
    weight: float = 0.16,
    report: Report = lambda step, steps, values: None,
    max_seconds: float = math.inf,
) -> None:
    """End to end: distance + lambda * bits, lambda being ``weight`` squared steps.

    Values are rounded for the tail (straight through) and take uniform noise for the rate (Ballé
    et al. 2017). Model and tail end as their averages.
    """
    rng = np.random.default_rng(settings.seed)
    points = len(model.steps)
    lambdas = weight * (model.unit * model.steps).square()

    def loss_of(wanted: Outputs, rows: Rows) -> tuple[Tensor, dict[str, float]]:
        point = torch.from_numpy(rng.permutation(np.arange(settings.batch) % points))
        step = model.steps[point][:, None, None, None]
        bits, colours = torch.zeros(settings.batch), {}
        for name, values in model.latents(views.features(rows)).items():
            scaled = values / step
            noisy = scaled + torch.rand_like(scaled) - 0.5
            bits = bits + model.rate[name](noisy, point).sum((1, 2, 3))
            colours[name] = (scaled + (scaled.round() - scaled).detach()) * step
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            outputs = tail_outputs(model, network, colours, point)
        away = distance(network.info.output, outputs, wanted)
        lam = lambdas[point]
        loss = ((away + lam * bits) / (lam * _BITS_SCALE).sqrt()).mean()
        return loss, {
            "distance": float(away.detach().mean()),
            "bytes": float(bits.detach().mean() / 8),
        }

    rate = list(model.rate.parameters())
    groups = [
        {"params": [*model.analysis.parameters(), *model.synthesis.parameters()],
         "lr": settings.learning_rate},
        {"params": rate, "lr": settings.rate_learning_rate},
        {"params": list(network.tail_parameters()), "lr": settings.tail_learning_rate},
    ]  # fmt: skip
    _descend(groups, views, settings, loss_of, rng, report, max_seconds)


def train_tail(
    model: CutModel,
    network: SplitNetwork,
    quantisers: Mapping[int, Quantiser],
    views: Views,
    settings: StageSettings,
    *,
    share: float = 1.0,
    report: Report = lambda step, steps, values: None,
    max_seconds: float = math.inf,
) -> None:
    """Synthesis and tail behind the real palettes, a random state a sample; what the edge runs
    stays. quantisers: by state, what decoders get of channels at it. share: how far of the way from
    the start to where training ends the weights go in the end: what is learned for coarse states
    costs fine ones less so (Wortsman et al., "Robust fine-tuning", CVPR 2022). The model must have
    been told the states (:meth:`CutModel.tell_states`)."""
    rng = np.random.default_rng(settings.seed)
    states = sorted(quantisers)
    usual: dict[int, float] = {}

    def loss_of(wanted: Outputs, rows: Rows) -> tuple[Tensor, dict[str, float]]:
        drawn = rng.choice(states, len(rows))
        with torch.no_grad():
            latents = model.latents(views.features(rows))
            found = [
                quantisers[int(state)]({k: v[n : n + 1] for k, v in latents.items()}, int(state))
                for n, state in enumerate(drawn)
            ]
            colours = {name: torch.cat([one[name] for one in found]) for name in latents}
        state = torch.from_numpy(drawn)
        with torch.autocast("cpu", torch.bfloat16, enabled=settings.bf16):
            outputs = tail_outputs(model, network, colours, state)
        away = distance(network.info.output, outputs, wanted)
        for value, here in zip(away.detach().tolist(), drawn.tolist(), strict=True):
            usual[here] = 0.98 * usual.get(here, value) + 0.02 * value
        # Coarse states are far away; they are not to drown the fine ones.
        typical = torch.tensor([usual[here] for here in drawn.tolist()]).clamp_min(1e-6).sqrt()
        return (away / typical).mean(), {"distance": float(away.detach().mean())}

    groups = [
        {"params": list(model.synthesis.parameters()), "lr": settings.learning_rate},
        {"params": list(network.tail_parameters()), "lr": settings.tail_learning_rate},
    ]
    trained = [*model.synthesis.parameters(), *network.tail_parameters()]
    before = [parameter.detach().clone() for parameter in trained]
    _descend(groups, views, settings, loss_of, rng, report, max_seconds)
    with torch.no_grad():
        for start, end in zip(before, trained, strict=True):
            end.copy_(torch.lerp(start, end, share))


def _descend(
    groups: list[dict[str, object]],
    views: Views,
    settings: StageSettings,
    loss_of: Callable[[Outputs, Rows], tuple[Tensor, dict[str, float]]],
    rng: np.random.Generator,
    report: Report,
    max_seconds: float,
) -> None:
    """Follow the gradient of ``loss_of``; the parameters end as their moving averages.

    With a time limit the schedule follows the clock as far as that comes first.
    """
    parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]  # type: ignore[attr-defined]
    for parameter in parameters:
        parameter.requires_grad_(True)
    averages = [copy.deepcopy(p.detach()) for p in parameters]
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
    rates = [group["lr"] for group in optimiser.param_groups]
    begun, step = time.monotonic(), 0
    while True:
        through = step / settings.steps if settings.steps else 1.0
        done = max(through, (time.monotonic() - begun) / max_seconds)
        if done >= 1:
            break
        warm = min(1.0, (step + 1) / settings.warm_up)
        factor = warm * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * done)))
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        rows = np.sort(rng.choice(views.trained, settings.batch, replace=False))
        loss, values = loss_of(views.outputs(rows), rows)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(parameters, _CLIP)
        optimiser.step()
        step += 1
        keep = min(settings.average, step / (20 + step))
        with torch.no_grad():
            for average, parameter in zip(averages, parameters, strict=True):
                average.lerp_(parameter, 1 - keep)
        report(step, settings.steps, {"loss": float(loss.detach()), **values})
    with torch.no_grad():
        for average, parameter in zip(averages, parameters, strict=True):
            parameter.copy_(average)
            parameter.requires_grad_(False)


_LEAST_WEIGHT = 0.02
_BOX_WEIGHT = 0.5
_BOX_BEND = 0.5
"""Where smooth L1 becomes linear, in the box code's units."""
_FOUND = 0.05


def distance(kind: OutputKind, outputs: Outputs, wanted: Outputs) -> Tensor:
    """Per sample, 0 or more: float32 [n]."""
    logits, goal = outputs["logits"].float(), wanted["logits"]
    if kind == "boxes":
        chance = goal.sigmoid()
        weight = torch.maximum(chance, logits.detach().sigmoid()) + _LEAST_WEIGHT
        divergence = _bernoulli(logits, chance) - _bernoulli(goal, chance)
        best = chance.amax(2)
        away = functional.smooth_l1_loss(
            outputs["boxes"].float(), wanted["boxes"], reduction="none", beta=_BOX_BEND
        )
        boxes = away.sum(2) * best * (best > _FOUND)
        return (divergence * weight).sum((1, 2)) + _BOX_WEIGHT * boxes.sum(1)
    # A softmax over axis 1, a picture's or each position's.
    chance = goal.softmax(1)
    divergence = (chance * (goal.log_softmax(1) - logits.log_softmax(1))).sum(1)
    return divergence.flatten(1).sum(1) if divergence.ndim > 1 else divergence


def curvature_sample(kind: OutputKind, outputs: Outputs, wanted: Outputs) -> Tensor:
    """A random linear function of outputs whose gradient's outer product is, on average, the
    Gauss-Newton matrix of :func:`distance` around ``wanted``: a scalar.
    """
    logits = outputs["logits"]
    if kind == "boxes":
        chance = wanted["logits"].sigmoid()
        best = chance.amax(2, keepdim=True)
        spread = ((chance + _LEAST_WEIGHT) * chance * (1 - chance)).sqrt()
        reach = (_BOX_WEIGHT / _BOX_BEND * best * (best > _FOUND)).sqrt()
        noise, push = torch.randn_like(logits), torch.randn_like(outputs["boxes"])
        return (logits * noise * spread).sum() + (outputs["boxes"] * push * reach).sum()
    # The softmax's Fisher matrix: the score of a class drawn from it.
    chance = wanted["logits"].softmax(1)
    rows = chance.movedim(1, -1).reshape(-1, chance.shape[1])
    drawn = torch.multinomial(rows, 1)[:, 0]
    sign = torch.randint(0, 2, drawn.shape, device=drawn.device) * 2.0 - 1
    picked = logits.movedim(1, -1).reshape(-1, chance.shape[1]).log_softmax(1)
    return (picked.gather(1, drawn[:, None])[:, 0] * sign).sum()


def _bernoulli(logits: Tensor, chance: Tensor) -> Tensor:
    return functional.binary_cross_entropy_with_logits(logits, chance, reduction="none")
