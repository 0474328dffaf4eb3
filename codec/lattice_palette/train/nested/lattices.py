"""Nested lattices for the quantised channels, and the same quantiser in torch.

One chain serves all rates: its finest step is the operating point's, and states differ in how deep
each group of channels is told. The tail learns to live with what a stream's encoder does: a value
that is kept from the frame before is further from the exact one than rounding alone would put it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from codec.kit.recipe import Part
from codec.lattice_palette.nested.palette import (
    RATIO,
    NestedPalette,
    NestedPlane,
)
from codec.lattice_palette.planes import channels
from codec.lattice_palette.train.lattices import ORDERS
from codec.settings import DiffusionState, PlaneSpec

_MARGIN = 1.5
"""Limits are so much wider than what training photos reach."""


class NestedPart(Part):
    """One chain of nested lattices instead of several of a step each.

    depths: of each group of channels, how many lattices it has, each of a third of the step before.
    states: finest first, the depth of each group. weights: of each state, squared steps that a bit
    is worth to encoders of predicted frames. keep: the most by which, in steps, training puts
    values off before they are rounded, as keeping them from frame to frame does. order: a name of
    :data:`~codec.lattice_palette.train.lattices.ORDERS`. step: of the finest lattice, in the
    model's units; None is the first point's. step_ratios: of each group, by how much its steps are
    wider than that; None is 1 for all. With ratios of 1 and the root of three in turn, states that
    are half a depth apart mix steps that are nearly the same, which costs less than steps of which
    some are three times the others.
    """

    depths: tuple[int, ...] = Field(min_length=1)
    states: tuple[tuple[int, ...], ...] = Field(min_length=1)
    step: float | None = Field(None, gt=0)
    step_ratios: tuple[Annotated[float, Field(gt=0)], ...] | None = None
    weights: tuple[Annotated[float, Field(ge=0)], ...] = Field(min_length=1)
    keep: float = Field(0.5, ge=0, le=2)
    order: Literal["checkerboard", "quincunx", "two-level"] = "quincunx"

    def check(self, groups: Mapping[str, Sequence[int]]) -> None:
        """Raise ValueError unless depths and states are those of the groups of one scale."""
        sizes = [len(row) for row in groups.values()]
        if sizes != [len(self.depths)] or any(len(row) != sizes[0] for row in self.states):
            raise ValueError("nested lattices are of one scale, with a depth for each group")
        if self.states[0] != self.depths:
            raise ValueError("the finest state of nested lattices has all their depths")
        if self.step_ratios is not None and len(self.step_ratios) != sizes[0]:
            raise ValueError("nested lattices have a ratio of steps for each group")
        if len(self.weights) != len(self.states):
            raise ValueError("every state of nested lattices has a weight of bits")


def make_nested(
    part: NestedPart,
    groups: Mapping[str, Sequence[int]],
    step: float,
    latents: Mapping[str, Tensor],
) -> NestedPalette:
    """The palette of channels.

    groups: by scale (one), sizes of the groups. step: of the finest lattice, at a ratio of 1.
    latents: float32 [n, C, h, w] by scale, of training photos.
    """
    planes = []
    ratios = part.step_ratios or (1.0,) * len(part.depths)
    for spec, ratio in zip(_specs(part, groups), ratios, strict=True):
        here = latents[spec.scale][:, channels(spec)]
        reach = here.abs().amax((0, 2, 3)) / (step * ratio)
        coarsest = RATIO ** (spec.depth - 1)
        limits = ((_MARGIN * reach / coarsest).ceil() * coarsest + coarsest // 2).clamp(1, 4095)
        means = here.mean((0, 2, 3)).numpy()
        planes.append(
            NestedPlane(spec, float(np.float32(step * ratio)), limits.short().numpy(), means)
        )
    order, weights = np.array(ORDERS[part.order], np.uint8), np.array(part.weights, np.float32)
    return NestedPalette(planes, _states(part), order, weights)


def read_nested(
    part: NestedPart,
    groups: Mapping[str, Sequence[int]],
    arrays: Mapping[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]],
) -> NestedPalette:
    """The palette that :meth:`NestedPalette.to_arrays` gave. Raises BundleError."""
    return NestedPalette.from_arrays(_specs(part, groups), _states(part), arrays)


def rated_nested(palette: NestedPalette, bits_per_pixel: Sequence[float]) -> NestedPalette:
    """The same palette, its states with their typical rates."""
    states = [
        state.model_copy(update={"typical_bits_per_pixel": bits_per_pixel[state.state]})
        for state in palette.states
    ]
    planes = list(palette.planes.values())
    return NestedPalette(planes, states, palette.order, palette.weights)


class NestedQuantiser:
    """What a decoder gets of channels, in torch: whole batches."""

    def __init__(self, palette: NestedPalette, keep: float = 0.0) -> None:
        """keep: see :class:`NestedPart`; each sample is put off by up to a random part of it."""
        self._palette, self._keep = palette, keep

    def __call__(self, latents: Mapping[str, Tensor], state: int) -> dict[str, Tensor]:
        """Channels at ``state``: float32 [n, C, h, w] by scale."""
        scales: dict[str, list[Tensor]] = {}
        for plane, depth in zip(
            self._palette.planes.values(), self._palette.depths(state), strict=True
        ):
            values = latents[plane.spec.scale][:, channels(plane.spec)]
            if depth:
                step = float(plane.step_at(depth))
                limits = torch.from_numpy(plane.limits_at(depth)).float()[:, None, None]
                reach = self._keep * torch.rand(len(values), 1, 1, 1)
                off = (2 * torch.rand_like(values) - 1) * reach
                whole = (values / step + off).round()
                here = torch.maximum(torch.minimum(whole, limits), -limits) * step
            else:
                here = torch.from_numpy(plane.means)[:, None, None].expand_as(values)
            scales.setdefault(plane.spec.scale, []).append(here)
        return {scale: torch.cat(parts, 1) for scale, parts in scales.items()}


def _states(part: NestedPart) -> list[DiffusionState]:
    return [
        DiffusionState(state=number, depths=depths, typical_bits_per_pixel=0.0)
        for number, depths in enumerate(part.states)
    ]


def _specs(part: NestedPart, groups: Mapping[str, Sequence[int]]) -> list[PlaneSpec]:
    ((scale, sizes),) = groups.items()
    specs, first = [], 0
    for number, (size, depth) in enumerate(zip(sizes, part.depths, strict=True)):
        specs.append(
            PlaneSpec(
                name=f"{scale}.{number}",
                scale=scale,
                first_channel=first,
                channels=size,
                depth=depth,
            )
        )
        first += size
    return specs
