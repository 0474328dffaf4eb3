"""Fits what PSNR to expect of a state: log errors by log distortions and a photo's detail.

See :class:`codec.settings.PsnrModel`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from codec.settings import LEAST, PsnrModel, PsnrRow

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float64]

LEAST_PHOTOS: Final = 24
FOLDS: Final = 4


def psnr_model(
    known: Sequence[Sequence[Sequence[float]]],
    errors: Sequence[Sequence[float]],
    scales: Sequence[str],
    share: float,
) -> PsnrModel:
    """The model whose margins ``share`` of photos stay within.

    known: of each photo and state, the distortion of every one of ``scales``, and the detail of
    three sizes of blocks. errors: of each photo and state, what :func:`squared_error` says of the
    decoder's picture. Raises ValueError for fewer than :data:`LEAST_PHOTOS`.
    """
    if len(errors) < LEAST_PHOTOS:
        raise ValueError(f"{len(errors)} photos are too few; a model needs {LEAST_PHOTOS}")
    inputs, lost = np.log10(np.maximum(known, LEAST)), np.log10(np.maximum(errors, 1e-10))
    rows = (_fit_row(inputs[:, n], lost[:, n], scales, share) for n in range(lost.shape[1]))
    return PsnrModel(rows=tuple(rows), share=share)


def squared_error(photo: Pixels, picture: Pixels) -> float:
    """Mean squared error of pictures (uint8, the same shape), of values in 0..1."""
    difference = photo.astype(np.float32) - picture.astype(np.float32)
    return float(np.square(difference).mean()) / 255.0**2


def _fit_row(known: Numbers, lost: Numbers, scales: Sequence[str], share: float) -> PsnrRow:
    """Least squares, and the margin from residuals of photos that were left out of the fit."""
    design = np.hstack([np.ones((len(known), 1)), known])
    residuals = np.empty(len(lost))
    fold = np.arange(len(lost)) % FOLDS
    for number in range(FOLDS):
        out = fold == number
        residuals[out] = lost[out] - design[out] @ _solve(design[~out], lost[~out])
    # The smallest residual that at least this share of photos, one more counted, stays below.
    rank = min(math.ceil(share * (len(lost) + 1)), len(lost))
    margin_db = 10 * float(np.sort(residuals)[rank - 1])
    weights = _solve(design, lost)
    blocks = weights[1 + len(scales) :]
    return PsnrRow(
        intercept=round(float(weights[0]), 5),
        distortion={
            scale: round(float(weight), 5)
            for scale, weight in zip(scales, weights[1:], strict=False)
        },
        detail=(round(float(blocks[0]), 5), round(float(blocks[1]), 5), round(float(blocks[2]), 5)),
        margin_db=round(max(margin_db, 0.0), 4),
    )


def _solve(design: Numbers, lost: Numbers) -> Numbers:
    return np.asarray(np.linalg.lstsq(design, lost, rcond=None)[0])
