"""Lattice palettes: rounding, states, and arrays that fit no palette."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codec.lattice_palette.palette import LatticePalette
from codec.lattice_palette.train.lattices import LatticeQuantiser, make_lattices
from codec.settings import DiffusionState
from shared.errors import BundleError
from tests.support.lattice_bundle import CHANNELS, SCALE, SHAPES, fields


@pytest.fixture(scope="module")
def palettes() -> list[LatticePalette]:
    return make_lattices(SHAPES, {SCALE: torch.from_numpy(fields(12, 16, 1))[None]})


def test_values_are_the_nearest_steps_within_limits(palettes: list[LatticePalette]) -> None:
    palette = palettes[0]
    channels = 100 * fields(3, 4, 2)
    for name, grid in palette.quantise({SCALE: channels}).items():
        plane = palette.planes[name]
        assert (np.abs(grid) <= plane.limits[:, None, None]).all()
        first = plane.spec.first_channel
        here = channels[first : first + plane.spec.channels]
        inside = np.abs(here) < plane.step * (plane.limits[:, None, None] - 1)
        assert (np.abs(grid * plane.step - here)[inside] <= plane.step / 2 + 1e-5).all()


def test_coarser_states_tell_fewer_planes(palettes: list[LatticePalette]) -> None:
    fine, coarse = palettes
    assert [len(fine.sent(state)) for state in (0, 1, 2, 3)] == [3, 2, 1, 0]
    assert [len(fine.passes(state)) for state in (2, 1, 0)] == [5, 5, 5]
    assert (coarse.finest_state, coarse.coarsest_state) == (3, 3)
    assert len(coarse.passes(3)) == 6


def test_torch_gets_what_decoders_get(palettes: list[LatticePalette]) -> None:
    values = fields(6, 5, 3)
    for palette in palettes:
        steps = palette.quantise({SCALE: values})
        for row in palette.states:
            told = palette.sent(row.state)
            known = {name: np.full((6, 5), name in told) for name in palette.planes}
            wanted = palette.decode(steps, known)[SCALE]
            batch = {SCALE: torch.from_numpy(values)[None]}
            ours = LatticeQuantiser(palette)(batch, row.state)[SCALE][0].numpy()
            np.testing.assert_allclose(ours, wanted, rtol=1e-6)
            assert wanted.shape == (CHANNELS, 6, 5)


def test_a_palette_comes_back_from_its_arrays(palettes: list[LatticePalette]) -> None:
    for palette in palettes:
        arrays = palette.to_arrays()
        again = LatticePalette.from_arrays(palette.specs, palette.states, arrays)
        for name, values in again.to_arrays().items():
            np.testing.assert_array_equal(values, arrays[name])
        for name in arrays:
            less = {key: value for key, value in arrays.items() if key != name}
            with pytest.raises(BundleError, match=name):
                LatticePalette.from_arrays(palette.specs, palette.states, less)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (f"{SCALE}.0.0.step", np.float32(0)),
        (f"{SCALE}.0.0.step", np.float32("nan")),
        (f"{SCALE}.0.0.step", np.float64(1)),
        (f"{SCALE}.0.0.limits", np.array([0], np.int16)),
        (f"{SCALE}.0.0.limits", np.array([128], np.int16)),
        (f"{SCALE}.0.0.limits", np.array([1, 1], np.int16)),
        (f"{SCALE}.0.0.means", np.array([np.inf], np.float32)),
        (f"{SCALE}.0.0.order", np.array([[0, 2]], np.uint8)),
        (f"{SCALE}.0.0.order", np.array([[0, 2], [2, 0]], np.uint8)),
        (f"{SCALE}.0.0.order", np.zeros((9, 9), np.uint8)),
        (f"{SCALE}.0.0.order", np.zeros((2, 2), np.int32)),
    ],
)
def test_forged_arrays_are_refused(
    palettes: list[LatticePalette], name: str, value: np.ndarray
) -> None:
    palette = palettes[0]
    arrays = palette.to_arrays() | {name: np.asarray(value)}
    with pytest.raises(BundleError) as refused:
        LatticePalette.from_arrays(palette.specs, palette.states, arrays)
    assert refused.value.reason == "bad_palette"


@pytest.mark.parametrize("depths", [(0, 0, 0), (1, 0, 1), (1, 1), (2, 1, 1)])
def test_states_that_leave_out_planes_in_between_are_refused(
    palettes: list[LatticePalette], depths: tuple[int, ...]
) -> None:
    palette = palettes[0]
    state = DiffusionState(state=0, depths=depths, typical_bits_per_pixel=0)
    with pytest.raises(BundleError) as refused:
        LatticePalette(list(palette.planes.values()), [state], palette.order)
    assert refused.value.reason == "bad_states"
