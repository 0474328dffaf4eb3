"""Random features of the tiny bundle, and their bitstreams."""

from __future__ import annotations

import numpy as np

from codec.latents import Features
from codec.markov_palette.coding import MarkovPaletteCodec
from codec.markov_palette.palette import MarkovPalette
from shared.bitstream import Bitstream
from shared.bundle import Bundle


def features(width: int, height: int, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    rows, columns = -(-height // 16), -(-width // 16)
    return {
        "semantic": rng.standard_normal((8, rows, columns)).astype(np.float32),
        "texture": rng.standard_normal((3, 2 * rows, 2 * columns)).astype(np.float32),
    }


def encode(bundle: Bundle, width: int, height: int, seed: int = 0) -> Bitstream:
    return MarkovPaletteCodec(bundle).encode(features(width, height, seed), width, height)


def distortion(
    palette: MarkovPalette, values: Features, indices: dict[str, np.ndarray], state: int
) -> float:
    """Mean squared error per element between what is quantised and the colours of ``state``.

    indices: of the finest state.
    """
    decoded = palette.decode(palette.merge(indices, palette.finest_state, state), state)
    errors = [
        np.square(palette.residual(values, scale, indices) - grid).ravel()
        for scale, grid in decoded.items()
    ]
    return float(np.concatenate(errors).mean())


def smooth_features(width: int, height: int) -> dict[str, np.ndarray]:
    """Features with structure: sums of waves, so that contexts matter."""
    rows, columns = -(-height // 16), -(-width // 16)
    features = {}
    for name, channels, factor in (("semantic", 8, 1), ("texture", 3, 2)):
        y, x = np.mgrid[0 : rows * factor, 0 : columns * factor] / factor
        waves = [
            np.sin(0.7 * k + x / (1 + k % 3)) * np.cos(y / (2 + k % 2)) for k in range(channels)
        ]
        features[name] = np.stack(waves).astype(np.float32)
    return features
