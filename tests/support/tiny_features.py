"""Random features of the tiny bundle, and their bitstreams."""

from __future__ import annotations

import numpy as np

from codec.registry import open_codec
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
    layers = tuple(open_codec(bundle).layers(features(width, height, seed)))
    return Bitstream(bundle.short_id, width, height, 0, layers)
