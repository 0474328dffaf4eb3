"""Leaf indices of many photos in flat tensors, and random positions with what surrounds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from codec.exact import UNIT
from codec.markov_palette.context_network import (
    COARSE_STEPS,
    MATE_STEPS,
    NEAREST,
    OWN_STEPS,
    input_colours,
)
from codec.markov_palette.contexts import known_depths, relations
from codec.markov_palette.palette import Indices, MarkovPalette


@dataclass(frozen=True)
class _Scale:
    """Positions of one scale, photo after photo, with one position of nothing around each grid."""

    base: Tensor
    stride: Tensor
    coarse_base: Tensor
    coarse_stride: Tensor
    phase: Tensor
    ratio: int


@dataclass(frozen=True)
class Batch:
    """What a plane's network sees at n positions, for all depths of the plane at once.

    The first half of the positions are seen as in the first checkerboard pass, the second half
    as in the second. neighbours: float32 [depth, n, own + mates + 5 bare place inputs], in units
    of 1.0. coarse: float32 [trunks, n, 9 * columns], one for each state of the coarser planes;
    trunk_of: which of them each depth sees. phase: int64 [n]. leaf: int64 [n].
    """

    neighbours: Tensor
    coarse: Tensor | None
    trunk_of: tuple[int, ...]
    phase: Tensor
    leaf: Tensor


class ContextSamples:
    """Leaf indices of photos, ready to draw positions from."""

    def __init__(
        self, palette: MarkovPalette, photos: Sequence[Indices], device: torch.device
    ) -> None:
        """photos: leaf indices int32 [h, w] a plane. Every grid a multiple of the coarser one."""
        self.palette = palette
        self._mates, self._coarser = relations(palette.planes)
        self._known = known_depths(palette)
        self._leaves: dict[str, Tensor] = {}
        self._scales: dict[str, _Scale] = {}
        scales = list(dict.fromkeys(plane.scale for plane in palette.planes))
        for rank, scale in enumerate(scales):
            planes = [plane for plane in palette.planes if plane.scale == scale]
            above = [plane.name for plane in palette.planes if plane.scale == scales[rank - 1]]
            for plane in planes:
                grids = [np.pad(p[plane.name], 1, constant_values=2**plane.depth) for p in photos]
                flat = np.concatenate([grid.ravel() for grid in grids]).astype(np.int64)
                self._leaves[plane.name] = torch.from_numpy(flat).to(device)
            shapes = [photo[planes[0].name].shape for photo in photos]
            coarse = [photo[above[0]].shape for photo in photos] if rank else shapes
            self._scales[scale] = _layout(shapes, coarse, device)
        self._tables = {
            name: [
                functional.pad(torch.from_numpy(input_colours(tree, depth)) / UNIT, (0, 0, 0, 1))
                for depth in range(tree.depth + 1)
            ]
            for name, tree in palette.trees.items()
        }
        self._tables = {name: [t.to(device) for t in row] for name, row in self._tables.items()}
        self._device = device

    def positions(self, plane: str) -> int:
        """How many positions the plane has in all photos."""
        return len(self._scales[self._scale_name(plane)].base)

    def ratio(self, plane: str) -> int:
        """Positions along a side of a coarser position; 1 for the coarsest scale."""
        return self._scales[self._scale_name(plane)].ratio

    def batch(self, plane: str, chosen: Tensor) -> Batch:
        """What surrounds the ``chosen`` positions (int64 [n], n even)."""
        scale = self._scales[self._scale_name(plane)]
        base, stride = scale.base[chosen], scale.stride[chosen]
        depth = self.palette.trees[plane].depth
        second = torch.arange(len(chosen), device=self._device) >= len(chosen) // 2
        finer = torch.tensor([step in NEAREST for step in OWN_STEPS], device=self._device)
        finer = second[:, None] & finer[None]
        own = self._leaves[plane][_around(base, stride, OWN_STEPS)]
        nearest = own[:, [OWN_STEPS.index(step) for step in NEAREST]]
        place = functional.pad((nearest < 2**depth).float(), (1, 0), value=1.0)
        beside = _around(base, stride, MATE_STEPS)
        rows = []
        for level in range(depth):
            # One table for both depths: the finer one's rows come behind the coarser one's.
            here, below = self._tables[plane][level], self._tables[plane][level + 1]
            index = (own >> (depth - level - finer.long())) + len(here) * finer
            parts = [functional.embedding(index, torch.cat([here, below])).flatten(1)]
            seen = self._beside(plane, level, beside, second)
            if seen:
                parts.append(torch.cat(seen, 2).flatten(1))
            rows.append(torch.cat([*parts, place], 1))
        coarse, trunk_of = self._coarse(plane, scale, chosen)
        return Batch(
            torch.stack(rows), coarse, trunk_of, scale.phase[chosen], self._leaves[plane][base]
        )

    def leaves(self, plane: str) -> Tensor:
        """The leaf at every position: int64 [positions]."""
        return self._leaves[plane][self._scales[self._scale_name(plane)].base]

    def _beside(self, plane: str, level: int, where: Tensor, second: Tensor) -> list[Tensor]:
        """What is seen of other planes of the scale, float32 [n, 5, columns] each.

        where: int64 [n, 5], the position and the nearest four. second: bool [n], of the pass.
        """
        known = self._known[plane, level]
        return [
            self._look_up(mate, self._leaves[mate][where], known[mate])
            for mate in self._mates[plane]
        ]

    def _coarse(
        self, plane: str, scale: _Scale, chosen: Tensor
    ) -> tuple[Tensor | None, tuple[int, ...]]:
        depth = self.palette.trees[plane].depth
        names = self._coarser[plane]
        if not names:
            return None, ()
        where = _around(scale.coarse_base[chosen], scale.coarse_stride[chosen], COARSE_STEPS)
        leaves = {name: self._leaves[name][where] for name in names}
        states = [tuple(self._known[plane, d][name] for name in names) for d in range(depth)]
        different = list(dict.fromkeys(states))
        rows = [
            torch.cat(
                [self._look_up(n, leaves[n], k) for n, k in zip(names, state, strict=True)], 2
            )
            for state in different
        ]
        trunk_of = tuple(different.index(state) for state in states)
        return torch.stack([row.flatten(1) for row in rows]), trunk_of

    def _look_up(self, plane: str, leaves: Tensor, depth: int) -> Tensor:
        below = self.palette.trees[plane].depth - depth
        return functional.embedding(leaves >> below, self._tables[plane][depth])

    def _scale_name(self, plane: str) -> str:
        return next(spec.scale for spec in self.palette.planes if spec.name == plane)


def _around(base: Tensor, stride: Tensor, steps: Sequence[tuple[int, int]]) -> Tensor:
    return torch.stack([base + row * stride + column for row, column in steps], 1)


def _layout(
    shapes: Sequence[tuple[int, ...]], coarse: Sequence[tuple[int, ...]], device: torch.device
) -> _Scale:
    columns: list[list[npt.NDArray[np.int64]]] = [[], [], [], [], []]
    start = coarse_start = 0
    ratio = shapes[0][0] // coarse[0][0]
    for (height, width), (rows, wide) in zip(shapes, coarse, strict=True):
        if (height, width) != (ratio * rows, ratio * wide):
            raise ValueError(f"a grid of {height} x {width} is not {ratio} times {rows} x {wide}")
        y, x = np.divmod(np.arange(height * width), width)
        values = (
            start + (y + 1) * (width + 2) + x + 1,
            np.full(y.shape, width + 2),
            coarse_start + (y // ratio + 1) * (wide + 2) + x // ratio + 1,
            np.full(y.shape, wide + 2),
            y % ratio * ratio + x % ratio,
        )
        for column, value in zip(columns, values, strict=True):
            column.append(value)
        start += (height + 2) * (width + 2)
        coarse_start += (rows + 2) * (wide + 2)
    base, stride, coarse_base, coarse_stride, phase = (
        torch.from_numpy(np.concatenate(column)).to(device) for column in columns
    )
    return _Scale(base, stride, coarse_base, coarse_stride, phase, ratio)
