"""Random features of the tiny bundle, and their bitstreams."""

from __future__ import annotations

import numpy as np

from codec.markov_palette.coding import MarkovPaletteCodec
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
    layers = tuple(MarkovPaletteCodec(bundle).layers(features(width, height, seed)))
    return Bitstream(bundle.short_id, width, height, 0, layers)


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
