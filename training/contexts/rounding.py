"""Float weights of context networks on the finest integer grids that stay exact."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codec.exact import ACTIVATION_LIMIT, EXACT_BELOW
from codec.markov_palette.context_network import UNIT

_FINEST_SHIFT = 14
_MARGIN = 0.98


def activations(weights: Tensor) -> Tensor:
    """The largest integer at each input of [groups, inputs, outputs] weights behind activations."""
    return torch.full((weights.shape[1],), float(ACTIVATION_LIMIT))


def finest(weights: Tensor, largest: Tensor, bias: Tensor) -> int:
    """The largest shift at which every sum of [groups, inputs, outputs] weights is exact.

    largest: the largest integer at each input. bias: largest absolute bias of each output.
    """
    sums = torch.einsum("gio,i->go", weights.abs().double().cpu(), largest.double())
    worst = float((sums + UNIT * bias.double().cpu()).max())
    peak = float(weights.abs().max()) * 2.0
    by_sum = math.floor(math.log2(_MARGIN * EXACT_BELOW / max(worst, 1.0)))
    by_range = math.floor(math.log2(2**16 * _MARGIN / max(peak, 1e-9)))
    return max(0, min(_FINEST_SHIFT, by_sum, by_range))


def integers(weights: Tensor, shift: int) -> npt.NDArray[np.int16]:
    """Weights in steps of ``2**-shift``."""
    rounded = (weights.double() * 2.0**shift).round().cpu().numpy()
    return np.clip(rounded, -32767, 32767).astype(np.int16)


def biases(values: Tensor, shift: int) -> npt.NDArray[np.int32]:
    """On the grid of the sums, and half a step up: the shift then rounds to nearest."""
    scaled = (values.double() * UNIT * 2.0**shift).round().long() + (1 << shift >> 1)
    return scaled.cpu().numpy().astype(np.int32)
