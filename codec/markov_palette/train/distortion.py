"""Fits a bundle's PSNR model: what its decoder makes of photos, against what the edge can know."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from codec.layered import FeatureLatents, Features
from codec.markov_palette.coding import MarkovPaletteCodec
from codec.markov_palette.psnr import DistortionTable
from codec.markov_palette.reconstruct import PictureReconstructor
from codec.settings import LEAST, PsnrModel, PsnrRow
from shared.preprocess import block_detail

Pixels = npt.NDArray[np.uint8]
Numbers = npt.NDArray[np.float64]

LEAST_PHOTOS: Final = 24
FOLDS: Final = 4


def fit_psnr_model(
    codec: MarkovPaletteCodec,
    reconstructor: PictureReconstructor,
    extract: Callable[[Pixels], Features],
    photos: Iterable[Pixels],
    *,
    share: float = 0.9,
    progress: Callable[[int], None] = lambda done: None,
) -> PsnrModel:
    """The model of one extractor, palette and decoder; ``share`` of photos shall meet a target.

    extract: the edge's network: uint8 [H, W, 3], unpadded, to float32 [C, h, w] per scale. photos:
    uint8 [H, W, 3], like those that will be sent and none that evaluation uses; two hundred or
    more make the margins steady. Raises ValueError for fewer than ``LEAST_PHOTOS``.
    """
    states = range(codec.palette.coarsest_state + 1)
    inputs: list[list[list[float]]] = []
    targets: list[list[float]] = []
    for number, photo in enumerate(photos, 1):
        features = extract(photo)
        indices = codec.quantise(features)
        table = DistortionTable(codec.palette, features, indices)
        detail = block_detail(photo)
        inputs.append([[*table.at(state).values(), *detail] for state in states])
        errors = [
            _squared_error(photo, reconstructor.reconstruct([latents])[0])
            for latents in (
                _latents(codec, indices, state, photo.shape[1], photo.shape[0]) for state in states
            )
        ]
        targets.append(errors)
        progress(number)
    if len(targets) < LEAST_PHOTOS:
        raise ValueError(f"{len(targets)} photos are too few; a model needs {LEAST_PHOTOS}")
    scales = list(dict.fromkeys(plane.scale for plane in codec.palette.planes))
    known, lost = np.log10(np.maximum(inputs, LEAST)), np.log10(np.maximum(targets, 1e-10))
    return PsnrModel(
        rows=tuple(_fit_row(known[:, state], lost[:, state], scales, share) for state in states),
        share=share,
    )


def _fit_row(known: Numbers, lost: Numbers, scales: list[str], share: float) -> PsnrRow:
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


def _latents(
    codec: MarkovPaletteCodec, indices: dict[str, npt.NDArray[np.int32]], state: int, width: int,
    height: int,
) -> FeatureLatents:  # fmt: skip
    """What decoding a stream at ``state`` gives, without the stream."""
    merged = codec.palette.merge(indices, 0, state)
    depths = codec.palette.depths(state)
    return FeatureLatents(
        codec.palette.decode(merged, state),
        state,
        width,
        height,
        merged,
        {name: np.full(grid.shape, depths[name], np.uint8) for name, grid in merged.items()},
    )


def _squared_error(photo: Pixels, picture: Pixels) -> float:
    difference = photo.astype(np.float32) - picture.astype(np.float32)
    return float(np.square(difference).mean()) / 255.0**2
