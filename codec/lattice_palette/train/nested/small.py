"""A small bundle of nested lattices, of the same pictures and boxes as the small one beside it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from codec.lattice_palette.nested.contexts import NestedContexts
from codec.lattice_palette.nested.network import OUTPUTS, BitNetwork
from codec.lattice_palette.nested.palette import NestedPalette, NestedPlane
from codec.lattice_palette.train.lattices import ORDERS
from codec.lattice_palette.train.nested.contexts import plain_contexts
from codec.settings import DiffusionState, PlaneSpec
from shared.bundle import Bundle

STEP = 0.03
"""Of the finest lattice."""
_DEPTHS = (3, 2)
_STATES = ((3, 2), (2, 1), (1, 0))
_HIDDEN, _WIDTH = 6, 5


def small_nested_bundle(folder: Path) -> Bundle:
    """The bundle ``small-nested``; see :func:`codec.base.small_bundles`."""
    from codec.lattice_palette.train.small import SCALE, small_parts

    planes, first = [], 0
    for number, (size, depth) in enumerate(zip((1, 2), _DEPTHS, strict=True)):
        spec = PlaneSpec(
            name=f"{SCALE}_{number}", scale=SCALE, first_channel=first, channels=size, depth=depth
        )
        limits = np.full(size, int(1.3 / STEP), np.int16)
        planes.append(NestedPlane(spec, STEP, limits, np.zeros(size, np.float32)))
        first += size
    states = [
        DiffusionState(state=row, depths=depths, typical_bits_per_pixel=0.1 / (1 + row))
        for row, depths in enumerate(_STATES)
    ]
    weights = np.full(len(states), 0.1, np.float32)
    palette = NestedPalette(planes, states, np.array(ORDERS["quincunx"], np.uint8), weights)
    return small_parts(folder, "small-nested", [palette], [_contexts(palette)])


def _contexts(palette: NestedPalette) -> NestedContexts:
    """Networks that look at everything, with weights drawn by chance."""
    rng, plain = np.random.default_rng(3), plain_contexts(palette)
    networks = {}
    for name, start in plain.networks.items():
        outputs = start.out.shape[1]
        networks[name] = BitNetwork(
            rng.integers(-9, 10, (start.inputs, _HIDDEN)).astype(np.int16),
            rng.integers(-300, 301, _HIDDEN).astype(np.int32),
            rng.integers(-9, 10, (_HIDDEN, _WIDTH)).astype(np.int16),
            rng.integers(-300, 301, _WIDTH).astype(np.int32),
            rng.integers(-9, 10, (_WIDTH, outputs)).astype(np.int16),
            np.repeat(np.array([-40, 0, -20, 20], np.int32) << 6, outputs // OUTPUTS),
            np.array([4, 4, 6], np.int32),
        )
    return NestedContexts(palette, networks, plain.odds, plain.bent, plain.where)
