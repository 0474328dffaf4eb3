"""A context network's arrays: what is refused, and above all sums that float32 cannot hold."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from codec.exact import EXACT_BELOW
from codec.markov_palette.context_network import COLOUR_LIMIT, PlaneNetwork, input_colours
from codec.markov_palette.contexts import ContextModel
from codec.markov_palette.palette import PaletteTree
from codec.markov_palette.train.small import tiny_contexts
from shared.errors import BundleError
from tests.support.tiny_bundle import tiny_palette


@pytest.fixture(scope="module")
def model() -> ContextModel:
    return tiny_contexts(tiny_palette())


def refuse(arrays: dict[str, np.ndarray]) -> str:
    palette = tiny_palette()
    with pytest.raises(BundleError) as refused:
        ContextModel.from_arrays(palette.planes, palette, arrays)
    assert refused.value.reason == "bad_contexts"
    return refused.value.message


def test_a_model_comes_back_from_its_arrays(model: ContextModel) -> None:
    arrays = model.to_arrays()
    again = ContextModel.from_arrays(model.palette.planes, model.palette, arrays).to_arrays()
    assert list(again) == list(arrays)
    for name, values in arrays.items():
        np.testing.assert_array_equal(again[name], values)
        assert again[name].dtype == values.dtype


def test_every_array_is_needed(model: ContextModel) -> None:
    arrays = model.to_arrays()
    for name in arrays:
        assert name in refuse({key: value for key, value in arrays.items() if key != name})


@pytest.mark.parametrize("damage", ["dtype", "cut", "axis", "long"])
def test_every_array_is_checked(model: ContextModel, damage: str) -> None:
    arrays = model.to_arrays()
    for name, value in arrays.items():
        changed = {
            "dtype": value.astype(np.float32),
            "cut": value[:-1],
            "axis": value[None],
            "long": np.concatenate([value, value]),
        }[damage]
        refuse(arrays | {name: changed})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("semantic_0.own", 32767),
        ("semantic_0.mates", 32767),
        ("texture_0.place", 32767),
        ("texture_0.summary", 32767),
        ("texture_0.entry", -(2**31)),
        ("texture_0.entry", EXACT_BELOW),
        ("texture_0.prior", -EXACT_BELOW),
        ("texture_0.summary_bias", EXACT_BELOW - 1),
        ("texture_0.trunk_weights", -32768),
        ("texture_0.trunk_phase_bias", EXACT_BELOW),
    ],
)
def test_a_forged_model_that_float32_cannot_evaluate_exactly_is_refused(
    model: ContextModel, name: str, value: int
) -> None:
    arrays = model.to_arrays()
    forged = arrays[name].copy()
    forged[:] = value
    assert "exact on every machine" in refuse(arrays | {name: forged})


def test_the_bound_is_the_sum_of_absolute_terms() -> None:
    """One below passes, at it does not: the bound is neither loose nor off by one."""
    tree = tiny_palette().trees["texture_0"]
    network = PlaneNetwork.constant(tree, np.zeros(2**tree.depth - 1, np.int32))
    own = network.own.copy()
    own[0, 0, 0] = -30000
    shifts = np.full_like(network.shifts, 10)
    rest = EXACT_BELOW - COLOUR_LIMIT * 30000
    for entry, accepted in ((rest - 1, True), (1 - rest, True), (rest, False)):
        rows = np.zeros_like(network.entry)
        rows[0] = entry
        make = dataclasses.replace
        if accepted:
            assert make(network, own=own, entry=rows, shifts=shifts).depth == tree.depth
        else:
            with pytest.raises(BundleError, match=str(EXACT_BELOW)):
                make(network, own=own, entry=rows, shifts=shifts)


def test_a_shifted_sum_must_fit_16_bits(model: ContextModel) -> None:
    arrays = model.to_arrays()
    refuse(arrays | {"semantic_0.shifts": np.zeros_like(arrays["semantic_0.shifts"])})
    for shift in (-1, 31, 40):
        bad = np.full_like(arrays["semantic_0.shifts"], shift)
        assert "shift" in refuse(arrays | {"semantic_0.shifts": bad})


def test_networks_of_another_palette_are_refused(model: ContextModel) -> None:
    """Mixed bundles: a plane's network under another plane's name."""
    arrays = model.to_arrays()
    for theirs, ours in (("semantic_1", "semantic_0"), ("semantic_0", "texture_0")):
        mixed = {k: v for k, v in arrays.items() if not k.startswith(ours)}
        for name, value in arrays.items():
            if name.startswith(theirs):
                mixed[name.replace(theirs, ours)] = value
        assert ours in refuse(mixed)


def test_tables_of_an_earlier_version_are_refused_with_what_to_do() -> None:
    palette = tiny_palette()
    old: dict[str, np.ndarray] = {}
    for plane in palette.planes:
        old[f"{plane.name}.thresholds"] = np.array([-5, 5], np.int32)
        old[f"{plane.name}.probabilities"] = np.ones((2, 2**plane.depth - 1, 3), np.uint16)
    with pytest.raises(BundleError, match=r"newer bundle.*featherwire-train tables") as refused:
        ContextModel.from_arrays(palette.planes, palette, old)
    assert refused.value.reason == "old_contexts"


def test_input_colours_are_the_palette_on_a_grid_that_fits() -> None:
    tree = PaletteTree.from_leaves(
        np.array([[-3.0, 0.1, 0.0], [3.0, 0.3, 0.0], [1.0, 0.2, 0.0], [2.0, 0.0, 0.0]]),
        np.ones(4, np.int64),
    )
    for depth in range(3):
        inputs = input_colours(tree, depth)
        exact = tree.integer_colours(depth) / 2.0 ** (12 - 7)
        assert inputs.shape == (2**depth, 8)
        assert np.abs(inputs[:, :3] - exact).max() <= 0.5
        assert not inputs[:, 3:].any()
        assert np.abs(inputs).max() <= COLOUR_LIMIT
    largest = np.full((3, 1), 32767, np.int16)
    whole = PaletteTree(largest, np.ones(2, np.uint32), 0)
    assert input_colours(whole, 1).max() == COLOUR_LIMIT


def test_multiply_adds_are_counted(model: ContextModel) -> None:
    strides = {"semantic": 16, "texture": 8}
    # (own + mates + place) * hidden + hidden * width + width, depth times, over the stride squared
    semantic = (64 + 40 + 5) * 6 + 6 * 4 + 4
    texture = (64 + 5 + 3) * 6 + 6 * 4 + 4
    trunk = 9 * 16 * 8 + 8 * 4 * 3
    expected = (5 + 4) * semantic / 256 + 3 * texture / 64 + trunk / 256
    assert model.macs_per_pixel(strides) == pytest.approx(expected)
