"""What of a picture must be painted anew when some of its positions have changed.

A changed position is felt as far as the networks see (:class:`Reach`): 17 positions for the
packaged decoder, 272 pixels to each side, of which the farther half moves pixels by a step of 255
at most, and here and there. All of it is painted, so that nothing tells the picture from one that
was painted whole.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
import torch

from codec.areas.boxes import Box, Mask, rectangles, widened
from codec.latents import FeatureLatents
from codec.markov_palette.networks import DecoderConfig
from codec.markov_palette.pictures.geometry import (
    TEXTURE_RATIO,
    Reach,
    RestorerPlan,
    SynthesisPlan,
)


@dataclass(frozen=True, slots=True)
class Plan:
    """Windows to compute, in positions. work: about, as a share of the whole picture's."""

    estimates: tuple[Box, ...]
    pixels: tuple[Box, ...]
    work: float


class Planner:
    """Chooses windows for one decoder."""

    def __init__(self, config: DecoderConfig) -> None:
        """config: the decoder's."""
        self._config = config
        self.reach = Reach.of(config)

    def plan(self, changed: Mask, *, estimates_kept: bool) -> Plan:
        """For changed positions, bool [h, w], at least one of them.

        estimates_kept: whether those of the picture before are at hand; all are computed otherwise.
        """
        grid = Box(0, 0, *changed.shape)

        def restoring(box: Box) -> float:
            return RestorerPlan.of(box, grid).work(self._config)

        def painting(box: Box) -> float:
            return SynthesisPlan.of(box, grid, self._config).work(self._config)

        estimates = [grid]
        if estimates_kept:
            estimates = rectangles(widened(changed, self.reach.estimates), restoring)
        pixels = rectangles(widened(changed, self.reach.pixels), painting)
        work = sum(map(restoring, estimates)) + sum(map(painting, pixels))
        return Plan(tuple(estimates), tuple(pixels), work / (restoring(grid) + painting(grid)))


class Trust:
    """Windows whose values are, on this device, those of the whole picture.

    A library may compute another shape with another kernel, which rounds another way. So a window
    is used once a window of its shape was computed beside a whole picture, and had its values, bit
    for bit; one that had not is never used.
    """

    def __init__(self) -> None:
        self._known: dict[Hashable, bool] = {}

    def knows(self, kind: str, box: Box, grid: Box, reach: int) -> bool | None:
        """None until it was tried. reach: beyond which a border is not noticed."""
        return self._known.get(self._key(kind, box, grid, reach))

    def learn(self, kind: str, box: Box, grid: Box, reach: int, *, equal: bool) -> None:
        """What came of trying."""
        key = self._key(kind, box, grid, reach)
        self._known[key] = self._known.get(key, True) and equal

    def _key(self, kind: str, box: Box, grid: Box, reach: int) -> Hashable:
        borders = (box.top, box.left, grid.bottom - box.bottom, grid.right - box.right)
        size = (box.bottom - box.top, box.right - box.left)
        near = tuple(min(distance, reach) for distance in borders)
        return kind, grid, size, near, torch.get_num_threads()


def changed_positions(one: FeatureLatents, other: FeatureLatents) -> Mask:
    """Where features differ, bool [h, w], of latents of equal shapes."""
    semantic = (one.scales["semantic"] != other.scales["semantic"]).any(0)
    texture = (one.scales["texture"] != other.scales["texture"]).any(0)
    rows, columns = semantic.shape
    of_position = texture.reshape(rows, TEXTURE_RATIO, columns, TEXTURE_RATIO).any((1, 3))
    return np.asarray(semantic | of_position, np.bool_)
