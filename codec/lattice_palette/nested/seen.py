"""What networks see of a picture, and what the first layer of key frames' makes of it.

A network of key frames looks at all channels of a position and of those beside it, at the depths
that are known, at its plane's new depth around it, where that is known, and at what is expected.
Most of that is 0, or the same for every phase of a step: the first layer's sums leave out the
former, and are made of the latter once. They are sums of integers that are exact in any order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from codec.exact import NumberArray
from codec.lattice_palette.nested.palette import Integers
from codec.lattice_palette.nested.surroundings import Grid, Places


class Recorder(Protocol):
    """Gets what networks see, and what they are to foretell."""

    def wants(self, name: str) -> bool:
        """Whether it is to be told of the network of that name."""

    def __call__(
        self,
        name: str,
        inputs: NumberArray,
        classes: Places | None,
        away: Integers,
        above: npt.NDArray[np.bool_],
    ) -> None:
        """A network's inputs [n, inputs], classes [n, C], how many steps values [n, C] are away
        from what was expected (of which 1 is all that counts at deeper depths than the first), and
        whether they are above."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a network sees: classes of each channel's surroundings [n, C], which only one with a
    table needs; and either ``inputs`` [n, inputs], or ``sums`` [n, hidden], what its first layer
    makes of them before its bias."""

    classes: Places | None
    inputs: NumberArray | None = None
    sums: NumberArray | None = None


def fresh_inputs(
    seen: NumberArray, fresh: NumberArray, grid: Grid, here: Places, own: NumberArray | None
) -> NumberArray:
    """All inputs of a network of key frames: [n, inputs].

    seen: of all channels, at known depths [size, channels]. fresh: of the plane's new depth, 0
    where it is not known [size, C]. here: cells [n]. own: what is expected [n, C], None: 0.
    """
    parts = [_flat(seen[here[:, None] + grid.cross]), _flat(fresh[here[:, None] + grid.around])]
    parts.append(np.zeros((len(here), fresh.shape[1]), seen.dtype) if own is None else own)
    return np.concatenate(parts, axis=1)


def crossing(
    seen: NumberArray, told: npt.NDArray[np.bool_], grid: Grid, enter: NumberArray
) -> NumberArray:
    """What ``seen`` adds to the first layer's sums at every position: [cells, hidden].

    told: which channels have any depth [channels]; the others are 0. enter: the layer's weights
    [inputs, hidden].
    """
    (count,), hidden, beside = told.shape, enter.shape[1], len(grid.cross)
    sums: NumberArray = np.zeros((grid.cells, hidden), seen.dtype)
    if not told.any():
        return sums
    weights = enter[: beside * count].reshape(beside, count, hidden)[:, told]
    known = seen if told.all() else seen[:, told]
    products = known @ weights.transpose(1, 0, 2).reshape(-1, beside * hidden)
    for step, part in zip(grid.cross, np.split(products, beside, 1), strict=True):
        sums += part[grid.every + step]
    return sums


def add_fresh(
    sums: NumberArray,
    fresh: NumberArray,
    grid: Grid,
    phase: int,
    own: NumberArray | None,
    enter: NumberArray,
) -> None:
    """Add what ``fresh`` and ``own`` (see :func:`fresh_inputs`) add to the sums of a phase's
    positions [n, hidden]. enter: the layer's weights behind those of :func:`crossing`."""
    width, told = fresh.shape[1], grid.told[phase]
    if len(told):
        near = grid.padded[phase][:, None] + grid.around[told]
        rows = (told[:, None] * width + np.arange(width)).reshape(-1)
        sums += _flat(fresh[near]) @ enter[rows]
    if own is not None:
        sums += own @ enter[len(grid.around) * width :]


def summed(values: Integers, cells: Places, steps: Places) -> Integers:
    """The sum of the values [size, C] of the cells that lie so many steps from each: [n, C]."""
    total = np.zeros((len(cells), values.shape[1]), values.dtype)
    for step in steps:
        total += values[cells + step]
    return total


def _flat(rows: NumberArray) -> NumberArray:
    """[n, k, C] -> [n, k C], of no rows too: small pictures have no positions of some phases."""
    return rows.reshape(len(rows), rows.shape[1] * rows.shape[2])
