"""Positions of transitions whose splits are coded, with what surrounds them and their reference."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from codec.markov_palette.palette import MarkovPalette
from codec.markov_palette.temporal.change_network import PlaneLayer, layers_of
from codec.markov_palette.temporal.contexts import STATUS_COLUMNS
from codec.markov_palette.train.samples import ContextSamples
from codec.markov_palette.train.temporal.transitions import Transition

_STATUS: Final = 3


class TemporalSamples(ContextSamples):
    """Leaves of frames and of their references, ready to draw positions from.

    What a network sees beside the mates are the reference's colours and the status, as
    :mod:`codec.markov_palette.temporal.contexts` says.
    """

    def __init__(
        self, palette: MarkovPalette, moves: Sequence[Transition], device: torch.device
    ) -> None:
        """moves: their frames' grids a multiple of the coarser one."""
        super().__init__(palette, [move.after for move in moves], device)
        self._before: dict[str, Tensor] = {}
        self._coded: dict[str, Tensor] = {}
        self._of_depth: dict[str, list[PlaneLayer]] = {}
        for plane in palette.planes:
            name = plane.name
            grids = [np.pad(move.before[name], 1, constant_values=2**plane.depth) for move in moves]
            flat = np.concatenate([grid.ravel() for grid in grids]).astype(np.int64)
            self._before[name] = torch.from_numpy(flat).to(device)
            depths = [
                np.full(move.after[name].size, palette.depths(move.state)[name]) for move in moves
            ]
            self._coded[name] = torch.from_numpy(np.concatenate(depths)).to(device)
            self._of_depth[name] = [
                layer
                for layer in layers_of(palette, name)
                for _ in range(layer.before, layer.after)
            ]

    def changing(self, plane: str) -> Tensor:
        """The positions of a plane that leave their reference: int64 [n]."""
        scale = self._scales[self._scale_name(plane)]
        below = self.palette.trees[plane].depth - self._coded[plane]
        before, after = self._before[plane][scale.base], self._leaves[plane][scale.base]
        return torch.nonzero(before >> below != after >> below).flatten()

    def coded(self, plane: str, chosen: Tensor) -> Tensor:
        """Whether the split of each position at each depth is coded: bool [depth, n]."""
        scale, full = self._scales[self._scale_name(plane)], self.palette.trees[plane].depth
        before = self._before[plane][scale.base[chosen]]
        after = self._leaves[plane][scale.base[chosen]]
        rows = []
        for depth, layer in enumerate(self._of_depth[plane]):
            follows = before >> full - depth == after >> full - depth
            left = before >> full - layer.before != after >> full - layer.before
            leaves = before >> full - layer.after != after >> full - layer.after
            known = follows if depth + 1 == layer.after else torch.zeros_like(follows)
            rows.append((left | (leaves & ~known)) & (depth < self._coded[plane][chosen]))
        return torch.stack(rows)

    def _beside(self, plane: str, level: int, where: Tensor, second: Tensor) -> list[Tensor]:
        seen = super()._beside(plane, level, where, second)
        full, layer = self.palette.trees[plane].depth, self._of_depth[plane][level]
        before, after = self._before[plane][where], self._leaves[plane][where]
        seen.append(self._look_up(plane, before, layer.after))
        left = before >> full - layer.before != after >> full - layer.before
        leaves = ~left & (before >> full - layer.after != after >> full - layer.after)
        # The nearest four are known to a split more in the second pass.
        deeper = second[:, None].long().expand(-1, where.shape[1]).clone()
        deeper[:, 0] = 0
        below = full - level - deeper
        follows = (before >> below == after >> below) & (after < 2**full)
        status = torch.stack([left, leaves, follows], 2).float()
        seen.append(functional.pad(status, (0, STATUS_COLUMNS - _STATUS)))
        return seen
