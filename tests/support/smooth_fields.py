"""Smooth random fields, their palette and indices, and small settings to fit contexts to them."""

from __future__ import annotations

import numpy as np

from codec.markov_palette.palette import MarkovPalette, PaletteTree
from codec.markov_palette.train.contexts import ContextSettings
from tests.support.tiny_bundle import PLANES, STATES

Indices = dict[str, np.ndarray]
SMALL = ContextSettings(
    hidden=(16, 12), width=8, trunk=16, features=6, steps=250, batch=512, learning_rate=1e-2
)


def smooth(rng: np.random.Generator, channels: int, height: int, width: int) -> np.ndarray:
    """Noise blurred over a few positions, of unit variance."""
    field = rng.standard_normal((channels, height, width))
    for axis in (1, 2):
        for _ in range(3):
            field = field + np.roll(field, 1, axis) + np.roll(field, -1, axis)
    return field / field.std()


def photos(count: int, seed: int) -> tuple[MarkovPalette, list[Indices]]:
    """Indices of smooth random fields; the texture follows the semantic scale in part."""
    rng = np.random.default_rng(seed)
    trees = {}
    for plane in PLANES:
        leaves = np.random.default_rng(1).standard_normal((2**plane.depth, plane.channels))
        order = np.lexsort((leaves[:, 2], leaves[:, 1] > 0, leaves[:, 0] > 0))
        trees[plane.name] = PaletteTree.from_leaves(leaves[order], np.ones(len(leaves), int))
    palette = MarkovPalette(PLANES, trees, STATES)
    made = []
    for _ in range(count):
        semantic = smooth(rng, 8, 18, 15)
        below = semantic[:3].repeat(2, axis=1).repeat(2, axis=2)
        texture = 0.8 * below + 0.6 * rng.standard_normal(below.shape)
        features = {"semantic": semantic.astype(np.float32), "texture": texture.astype(np.float32)}
        made.append(palette.encode(features))
    return palette, made
