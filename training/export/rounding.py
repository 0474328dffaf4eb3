"""Rounding a layer's weights so that its outputs, not its weights, change least.

Frantar et al., GPTQ (2022), equation 3, after Hassibi and Stork, Optimal Brain Surgeon (1993):
weights are rounded one input at a time, and those that are still free take up the error.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

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
