"""Lattice palettes for the quantised channels, and the same quantiser in torch.

An operating point is a chain: the same channels on a lattice of this point's step. The bottleneck
was trained to be rounded with that step, and at equal squared error its tail minds rounding, which
is more like noise, half as much as what trees of few patterns do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from codec.lattice_palette.palette import LatticePalette, LatticePlane, Values
from codec.lattice_palette.planes import channels
from codec.lattice_palette.train.contexts import LIMIT
from codec.settings import DiffusionState, PlaneSpec

_MARGIN = 1.25
"""Limits are so much wider than what training photos reach."""

ORDERS: dict[str, list[list[int]]] = {
    "checkerboard": [[0, 1], [1, 0]],
    "quincunx": [[0, 2], [2, 1]],
    "two-level": [[0, 4, 2, 4], [4, 3, 4, 3], [2, 4, 1, 4], [4, 3, 4, 3]],
}
"""The phase of positions, rows and columns modulo the table's: every later phase lies among
positions that are known."""


@dataclass(frozen=True)
class ChainShape:
    """One operating point.

    groups: by scale, sizes of the groups of channels that are told together. step: of the
    lattice. order: a name of :data:`ORDERS`. left_out: of each state, finest first, how many of
    the last groups it does not tell.
    """

    groups: dict[str, tuple[int, ...]]
    step: float
    order: str
    left_out: tuple[int, ...] = (0,)


def make_lattices(
    chains: Sequence[ChainShape], latents: Mapping[str, Tensor]
) -> list[LatticePalette]:
    """Every chain's palette, its states numbered on from the chain before.

    latents: float32 [n, C, h, w] by scale, of training photos.
    """
    planes = []
    for chain, shape in enumerate(chains):
        made = []
        for spec in _specs(chain, shape):
            here = latents[spec.scale][:, channels(spec)]
            reach = here.abs().amax((0, 2, 3)) / shape.step
            limits = (_MARGIN * reach).ceil().clamp(1, LIMIT).short().numpy()
            means = here.mean((0, 2, 3)).numpy()
            made.append(LatticePlane(spec, float(np.float32(shape.step)), limits, means))
        planes.append(made)
    return _palettes(chains, planes)


def read_lattices(
    chains: Sequence[ChainShape], arrays: Mapping[str, npt.NDArray[np.generic]]
) -> list[LatticePalette]:
    """The palettes that :meth:`LatticePalette.to_arrays` gave. Raises BundleError."""
    found, first = [], 0
    for chain, shape in enumerate(chains):
        states = _states(shape, first)
        found.append(LatticePalette.from_arrays(_specs(chain, shape), states, arrays))
        first += len(states)
    return found


def rated(palette: LatticePalette, bits_per_pixel: Sequence[float]) -> LatticePalette:
    """The same palette, its states with their typical rates (of all the bundle's states)."""
    states = [
        state.model_copy(update={"typical_bits_per_pixel": bits_per_pixel[state.state]})
        for state in palette.states
    ]
    return LatticePalette(list(palette.planes.values()), states, palette.order)


def values_of(palette: LatticePalette, latents: Mapping[str, Tensor]) -> Values:
    """Whole steps of every view: int32 [n, C, h, w] a plane."""
    return {
        name: plane.quantise(latents[plane.spec.scale][:, channels(plane.spec)].numpy())
        for name, plane in palette.planes.items()
    }


class LatticeQuantiser:
    """What a decoder gets of channels, in torch: whole batches."""

    def __init__(self, palette: LatticePalette) -> None:
        self._palette = palette

    def __call__(self, latents: Mapping[str, Tensor], state: int) -> dict[str, Tensor]:
        """Channels at ``state``: float32 [n, C, h, w] by scale."""
        scales: dict[str, list[Tensor]] = {}
        told = self._palette.sent(state)
        for name, plane in self._palette.planes.items():
            values = latents[plane.spec.scale][:, channels(plane.spec)]
            if name in told:
                limits = torch.from_numpy(plane.limits).float()[:, None, None]
                steps = (values / plane.step).round()
                here = torch.maximum(torch.minimum(steps, limits), -limits) * plane.step
            else:
                here = torch.from_numpy(plane.means)[:, None, None].expand_as(values)
            scales.setdefault(plane.spec.scale, []).append(here)
        return {scale: torch.cat(parts, 1) for scale, parts in scales.items()}


def _palettes(
    chains: Sequence[ChainShape], planes: Sequence[Sequence[LatticePlane]]
) -> list[LatticePalette]:
    palettes: list[LatticePalette] = []
    first = 0
    for shape, here in zip(chains, planes, strict=True):
        states = _states(shape, first)
        order = np.array(ORDERS[shape.order], np.uint8)
        palettes.append(LatticePalette(here, states, order))
        first += len(states)
    return palettes


def _states(shape: ChainShape, first: int) -> list[DiffusionState]:
    groups = sum(len(sizes) for sizes in shape.groups.values())
    return [
        DiffusionState(
            state=first + row,
            depths=(1,) * (groups - left_out) + (0,) * left_out,
            typical_bits_per_pixel=0.0,
        )
        for row, left_out in enumerate(shape.left_out)
    ]


def _specs(chain: int, shape: ChainShape) -> list[PlaneSpec]:
    specs = []
    for scale, sizes in shape.groups.items():
        first = 0
        for number, size in enumerate(sizes):
            specs.append(
                PlaneSpec(
                    name=f"{scale}.{chain}.{number}",
                    scale=scale,
                    first_channel=first,
                    channels=size,
                    depth=1,
                )
            )
            first += size
    return specs
