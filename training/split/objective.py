"""How far a tail's outputs are from the whole network's: what bits are weighed against.

Scores are distilled (Hinton et al. 2015): the divergence of every class's probability, weighted
by the greater of both, because what neither finds does not matter. Boxes count where the whole
network finds something.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from training.split.network import OutputKind, Outputs

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
