"""Float weights of context networks on the finest integer grids that stay exact."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codec.exact import ACTIVATION_LIMIT, EXACT_BELOW, UNIT

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


FloatArray = npt.NDArray[np.float64]

_DAMPING = 0.01
_BLOCK = 128


def compensated_rounding(
    weight: FloatArray, scales: FloatArray, covariance: FloatArray, largest: int
) -> npt.NDArray[np.int8]:
    """Integers [out, k] of size at most ``largest`` whose products with ``scales`` [out] stand in
    for ``weight`` [out, k]; ``covariance`` [k, k] is that of the inputs.

    The expected squared error of the outputs is greedily small; a shift of their mean is for the
    bias to take back.
    """
    left = weight.copy()
    rounded = np.zeros_like(left)
    size = left.shape[1]
    damping = _DAMPING * float(np.diag(covariance).mean()) + 1e-12
    # Rows of the factor hold how the error of one input's weights is spread over later ones.
    inverse = np.linalg.inv(covariance + damping * np.eye(size))
    factor = np.linalg.cholesky(inverse).T
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        errors = np.empty((len(left), stop - start))
        for column in range(start, stop):
            steps = np.clip(np.rint(left[:, column] / scales), -largest, largest)
            error = (left[:, column] - scales * steps) / factor[column, column]
            left[:, column:stop] -= np.outer(error, factor[column, column:stop])
            rounded[:, column] = steps
            errors[:, column - start] = error
        left[:, stop:] -= errors @ factor[start:stop, stop:]
    return rounded.astype(np.int8)
