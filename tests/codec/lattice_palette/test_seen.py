"""The first layer of key frames' networks: sums without zeros are the sums of all inputs."""

from __future__ import annotations

import numpy as np
import pytest

from codec.lattice_palette.nested.seen import add_fresh, crossing, fresh_inputs, summed
from codec.lattice_palette.nested.surroundings import Grid

ORDER = np.array([[0, 2], [2, 1]], np.uint8)
COUNT, WIDTH, HIDDEN = 7, 3, 4


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("shape", [(5, 6), (1, 1), (2, 7)])
def test_sums_are_those_of_all_inputs(
    dtype: type[np.generic], first: bool, shape: tuple[int, int]
) -> None:
    rng, grid = np.random.default_rng(3), Grid(shape, ORDER)
    told = np.array([True, True, False, True, False, True, True])
    seen = np.zeros((grid.size, COUNT), dtype)
    seen[grid.every] = rng.integers(-127, 128, (grid.cells, COUNT)) * told
    inputs = len(grid.cross) * COUNT + (len(grid.around) + 1) * WIDTH
    enter = rng.integers(-300, 301, (inputs, HIDDEN)).astype(dtype)
    once = crossing(seen, told, grid, enter)
    fresh = np.zeros((grid.size, WIDTH), dtype)
    for phase, here in enumerate(grid.padded):
        own = rng.integers(-127, 128, (len(here), WIDTH)).astype(dtype) if first else None
        sums = once[grid.positions[phase]]
        add_fresh(sums, fresh, grid, phase, own, enter[len(grid.cross) * COUNT :])
        whole = fresh_inputs(seen, fresh, grid, here, own) @ enter
        np.testing.assert_array_equal(sums, whole)
        fresh[here] = rng.integers(-127, 128, (len(here), WIDTH))
    assert not crossing(seen, np.zeros(COUNT, bool), grid, enter).any()


def test_what_lies_around_is_summed() -> None:
    grid = Grid((3, 4), ORDER)
    values = np.zeros((grid.size, 2), np.int32)
    values[grid.every] = np.arange(24).reshape(12, 2)
    found = summed(values, grid.every, grid.around)
    shown = np.pad(np.arange(24).reshape(3, 4, 2), ((1, 1), (1, 1), (0, 0)))
    wanted = [
        shown[r : r + 3, c : c + 3].sum((0, 1)) - shown[r + 1, c + 1]
        for r in range(3)
        for c in range(4)
    ]
    np.testing.assert_array_equal(found, wanted)
