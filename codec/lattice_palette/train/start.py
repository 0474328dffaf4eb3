"""The best linear bottleneck to begin with, by what the tail's outputs depend on.

With G the Gauss-Newton matrix of the outputs' distance by the features at a position, an error e
costs about e' G e. In coordinates R z with R'R = G that is a plain squared error, so principal
components *there* are what a linear codec should keep (and in what order).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codec.lattice_palette.train.bottleneck import CutModel, ModelSettings
from codec.lattice_palette.train.fit import curvature_sample
from codec.lattice_palette.train.networks.base import SplitNetwork
from codec.lattice_palette.train.views import Views

_BATCH = 8
_RIDGE = 1e-3


def linear_start(
    network: SplitNetwork,
    views: Views,
    settings: ModelSettings,
    bits_per_position: Sequence[float],
    samples: int = 240,
) -> CutModel:
    """A model whose analysis and synthesis are linear.

    bits_per_position: at the coarsest scale of the cut, finest point first: the steps are such
    that rounded channels have that entropy, channel by channel, on average over the scales.
    """
    chosen = views.trained[: max(_BATCH, samples)]
    curvature = _curvature(network, views, chosen)
    parts = {name: _components(views, chosen, name, matrix) for name, matrix in curvature.items()}
    latent = settings.latent
    values = {
        name: (_flat(views.features(chosen)[name]) - mean) @ forward[:, :latent]
        for name, (mean, forward, _) in parts.items()
    }
    positions = {name: len(v) for name, v in values.items()}
    least = min(positions.values())

    def bits(step: float) -> float:
        return sum(_entropy(v, step) * len(v) / least for v in values.values())

    spread = max(float(v.std(0).max()) for v in values.values())
    steps = [_solve(bits, wanted, spread) for wanted in bits_per_position]
    # The middle point's step is the unit, so that weights are of ordinary size.
    unit = steps[len(steps) // 2]
    model = CutModel(network.info.scales, settings, torch.tensor(steps) / unit, unit)
    with torch.no_grad():
        for name, (mean, forward, backward) in parts.items():
            analysis, synthesis, rate = model.parts(name)
            inner, outer = analysis.project, synthesis.project
            assert inner.bias is not None
            assert outer.bias is not None
            inner.weight.copy_((forward[:, :latent] / unit).T[:, :, None, None])
            inner.bias.copy_(-(mean @ forward[:, :latent]) / unit)
            outer.weight.copy_((backward[:latent] * unit).T[:, :, None, None])
            outer.bias.copy_(mean)
            deviation = values[name].std(0) / unit
            scale = 0.55 * deviation[None] / model.steps[:, None]
            rate.scale.copy_(scale.clamp_min(0.12).log())
    return model


def _curvature(
    network: SplitNetwork, views: Views, chosen: npt.NDArray[np.int64]
) -> dict[str, Tensor]:
    """Half the Gauss-Newton matrix by scale, float32 [C, C], a mean over positions."""
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}
    for start in range(0, len(chosen), _BATCH):
        rows = chosen[start : start + _BATCH]
        features = {k: v.requires_grad_() for k, v in views.features(rows).items()}
        outputs = network.tail(features)
        wanted = {name: value.detach() for name, value in outputs.items()}
        value = curvature_sample(network.info.output, outputs, wanted)
        gradients = torch.autograd.grad(value, list(features.values()))
        for name, gradient in zip(features, gradients, strict=True):
            flat = _flat(gradient)
            sums[name] = sums.get(name, torch.zeros(())) + flat.T @ flat
            counts[name] = counts.get(name, 0) + len(flat)
    return {name: total / counts[name] / 2 for name, total in sums.items()}


def _components(
    views: Views, chosen: npt.NDArray[np.int64], name: str, curvature: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean [C], forward [C, C] and backward [C, C]: y = (z - mean) @ forward, z = y @ backward
    + mean; columns of y by falling variance."""
    flat = _flat(views.features(chosen)[name])
    eye = torch.eye(len(curvature))
    curvature = curvature + _RIDGE * curvature.diagonal().mean() * eye
    values, vectors = torch.linalg.eigh(curvature)
    root = vectors * values.sqrt() @ vectors.T
    inverse = vectors / values.sqrt() @ vectors.T
    _, axes = torch.linalg.eigh(root @ torch.cov(flat.T) @ root)
    axes = axes.flip(1)
    return flat.mean(0), root @ axes, axes.T @ inverse


def _flat(grid: Tensor) -> Tensor:
    return grid.permute(0, 2, 3, 1).reshape(-1, grid.shape[1])


def _entropy(values: Tensor, step: float) -> float:
    """Bits a row of rounded values, column by column."""
    whole = (values / step).round().long()
    total = 0.0
    for column in whole.T:
        share = torch.bincount(column - column.min()).double() / len(column)
        share = share[share > 0]
        total -= float((share * share.log2()).sum())
    return total


def _solve(bits: object, wanted: float, spread: float) -> float:
    """The step at which ``bits`` (falling) is ``wanted``, by bisection; spread: the greatest
    standard deviation of what is rounded."""
    assert callable(bits)
    low, high = 1e-4 * spread, 1e4 * spread
    for _ in range(30):
        middle = math.sqrt(low * high)
        if bits(middle) > wanted:
            low = middle
        else:
            high = middle
    return math.sqrt(low * high)
