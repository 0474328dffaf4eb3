"""Which values of a predicted frame are sent: most stay what the reference has.

A channel keeps the reference's value where the squared error that a change would save is less than
``weight`` times the bits that it is expected to take (entropy-constrained quantisation, Chou,
Lookabaugh and Gray 1989, with the reference's value as one of two candidates). Then a position
keeps all of them where its changes together are not worth what it takes to say where they are.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from codec.latents import Features
from codec.lattice_palette.nested.palette import Depths, Integers, NestedPalette, Values

_BITS_OF_CHANGE: Final = 5.0
"""What a changed value is expected to take."""
_BITS_OF_PLACE: Final = 4.0
"""What it is expected to take to say that something changes at a position."""


def choose(
    palette: NestedPalette,
    features: Features,
    reference: tuple[Values, Depths],
    state: int,
    weight: float,
) -> tuple[dict[str, Integers], float]:
    """Values to send (int32 [C, h, w] a plane, at the depths of ``state``), and the share of
    positions at which any is not the reference's; 1 where the reference has nothing to keep. Where
    it is coarser, what is kept is its coarse value, and the finer one is told anew.

    features: float32 [C, h, w] by scale. reference: its values and depths. weight: squared steps,
    of the finest lattice that the state has, that a bit is worth: in coarser ones too, for an error
    costs as much in any channel.
    """
    chosen = palette.quantise(features, state)
    depths = palette.depths(state)
    exact = palette.exact(features, depths)
    grid = features[palette.specs[0].scale].shape[1:]
    gain, changes = np.zeros(grid, np.float32), np.zeros(grid, np.float32)
    steps = {
        spec.name: palette.planes[spec.name].step_at(depth)
        for spec, depth in zip(palette.specs, depths, strict=True)
        if depth
    }
    finest = min(steps.values(), default=1.0)
    kept: dict[str, Integers] = {}
    for spec, depth in zip(palette.specs, depths, strict=True):
        name, there = spec.name, reference[1][spec.name]
        known = min(depth, int(there.min()))
        if not known:
            continue
        before = at_depth(palette, reference[0][name], there, np.full_like(there, known))
        if known < depth:
            before = chosen[name].clip(*palette.below(before, depth - known))
        saved = np.square(exact[name] - palette.centres(name, before, depth))
        saved -= np.square(exact[name] - palette.centres(name, chosen[name], depth))
        saved *= np.square(steps[name] / finest)
        stays = saved < weight * _BITS_OF_CHANGE
        chosen[name], kept[name] = np.where(stays, before, chosen[name]), before
        gain += np.where(stays, 0, saved).sum(0)
        changes += (~stays).sum(0)
    if not kept:
        return chosen, 1.0
    quiet = gain <= weight * (_BITS_OF_PLACE + _BITS_OF_CHANGE * changes)
    for name, before in kept.items():
        chosen[name] = np.where(quiet, before, chosen[name])
    return chosen, float(1 - quiet.mean())


def at_depth(
    palette: NestedPalette,
    values: Integers,
    depths: npt.NDArray[np.uint8],
    wanted: npt.NDArray[np.uint8],
) -> Integers:
    """Values (int32 [C, h, w]) at ``depths`` (uint8 [h, w]), as they are at ``wanted``, which are
    no greater."""
    surplus = depths.astype(np.int32) - wanted
    found = values if wanted.all() else np.where(wanted > 0, values, 0)
    for times in range(1, int(surplus.max(initial=0)) + 1):
        found = np.where(surplus >= times, palette.coarser(found, 1), found)
    return found
