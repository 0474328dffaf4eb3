"""Small context networks with seeded integer weights: real ones, only not fitted to anything."""

from __future__ import annotations

import numpy as np

from codec.markov_palette.context_network import (
    COARSE_STEPS,
    MATE_STEPS,
    ODDS_LIMIT,
    OWN_STEPS,
    PASSES,
    PLACE_INPUTS,
    PlaneNetwork,
    Trunk,
    padded_channels,
)
from codec.markov_palette.contexts import ContextModel, relations
from codec.markov_palette.palette import MarkovPalette

HIDDEN, WIDTH, TRUNK, FEATURES = 6, 4, 8, 3
ODDS = np.linspace(200, 65336, 2 * ODDS_LIMIT + 1).astype(np.uint16)


def tiny_contexts(palette: MarkovPalette, ratio: int = 2, seed: int = 5) -> ContextModel:
    """A context model for ``palette``; each scale is ``ratio`` times as fine as the last."""
    rng = np.random.default_rng(seed)
    mates, coarser = relations(palette.planes)
    columns = {plane.name: padded_channels(plane.channels) for plane in palette.planes}

    def weights(*shape: int) -> np.ndarray:
        return rng.integers(-20, 21, shape).astype(np.int16)

    def biases(*shape: int) -> np.ndarray:
        return rng.integers(-3000, 3001, shape).astype(np.int32)

    networks = {}
    for plane in palette.planes:
        groups, nodes = PASSES * plane.depth, 2**plane.depth - 1
        above = sum(columns[name] for name in coarser[plane.name])
        trunk = Trunk(
            weights(len(COARSE_STEPS) * above, TRUNK),
            biases(TRUNK),
            weights(TRUNK, ratio**2 * FEATURES),
            biases(ratio**2 * FEATURES),
            np.array([5, 4], np.int32),
        )
        beside = sum(columns[name] for name in mates[plane.name])
        networks[plane.name] = PlaneNetwork(
            own=weights(groups, len(OWN_STEPS) * columns[plane.name], HIDDEN),
            mates=weights(groups, len(MATE_STEPS) * beside, HIDDEN),
            place=weights(groups, PLACE_INPUTS + (FEATURES if above else 0), HIDDEN),
            entry=biases(nodes, HIDDEN),
            summary=weights(groups, HIDDEN, WIDTH),
            summary_bias=biases(groups, WIDTH),
            readout=weights(nodes, WIDTH),
            prior=biases(nodes),
            shifts=np.tile(np.array([[5], [5], [5]], np.int32), (1, groups)),
            trunk=trunk if above else None,
        )
    return ContextModel(palette, networks, ODDS)
