"""Palettes that nest: trees, the chain of states, and refusal of what does not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from codec.markov_palette.palette import MarkovPalette, PaletteTree
from codec.settings import DiffusionState, PlaneSpec
from shared.errors import BundleError
from tests.support.tiny_features import distortion


def tree_of(depth: int = 4, channels: int = 3, seed: int = 0) -> PaletteTree:
    rng = np.random.default_rng(seed)
    leaves = rng.standard_normal((2**depth, channels))
    return PaletteTree.from_leaves(leaves, rng.integers(1, 100, 2**depth))


def chain_of(rows: list[tuple[int, ...]], planes: list[PlaneSpec] | None = None) -> MarkovPalette:
    planes = planes or [
        PlaneSpec(name="a", scale="s", first_channel=0, channels=3, depth=4),
        PlaneSpec(name="b", scale="s", first_channel=3, channels=2, depth=3),
        PlaneSpec(name="c", scale="t", first_channel=0, channels=2, depth=2),
    ]
    trees = {p.name: tree_of(p.depth, p.channels, seed) for seed, p in enumerate(planes)}
    states = [
        DiffusionState(state=n, depths=row, typical_bits_per_pixel=0) for n, row in enumerate(rows)
    ]
    return MarkovPalette(planes, trees, states)


ROWS = [(4, 3, 2), (4, 3, 0), (3, 1, 0), (1, 0, 0)]


def test_a_parent_is_the_count_weighted_mean_of_the_two_it_merges() -> None:
    leaves = np.array([[0.0], [3.0], [10.0], [20.0]])
    tree = PaletteTree.from_leaves(leaves, np.array([2, 1, 1, 3]))
    grid = 2.0**-tree.exponent
    np.testing.assert_allclose(tree.colours(1)[:, 0], [1.0, 17.5], atol=grid)
    np.testing.assert_allclose(tree.colours(0)[:, 0], [(0 + 3 + 10 + 60) / 7], atol=grid)


def test_wards_cost_is_the_squared_error_that_a_merge_adds() -> None:
    leaves = np.array([[0.0, 0.0], [4.0, 0.0], [8.0, 1.0], [8.0, 3.0]])
    counts = np.array([3, 1, 2, 2])
    tree = PaletteTree.from_leaves(leaves, counts)
    merged = np.repeat(tree.colours(1).astype(float), 2, axis=0)
    added = (counts[:, None] * (leaves - merged) ** 2).sum(1).reshape(2, 2).sum(1)
    np.testing.assert_allclose(tree.merge_cost(2), added, rtol=1e-2)


def flat_and_detail(count: int = 4000) -> np.ndarray:
    """Much is next to nothing and little is large: what photos are made of."""
    rng = np.random.default_rng(1)
    spread = 0.3 * np.exp(rng.standard_normal((count, 1)))
    return (spread * rng.standard_normal((count, 3))).astype(np.float32)


def rate_aware_tree(vectors: np.ndarray, weights: list[float]) -> PaletteTree:
    from codec.kit.bisect import fit_leaves_for_rate

    leaves, counts = fit_leaves_for_rate(torch.from_numpy(vectors), weights)
    return PaletteTree.from_leaves(leaves.numpy(), counts.numpy(), weights)


def test_a_tree_made_for_the_rate_costs_less_at_equal_error() -> None:
    from codec.kit.bisect import fit_leaves

    vectors = flat_and_detail()
    leaves, counts = fit_leaves(torch.from_numpy(vectors), 4)
    plain = PaletteTree.from_leaves(leaves.numpy(), counts.numpy())
    aware = rate_aware_tree(vectors, [0.3] * 6)

    def bits_and_error(tree: PaletteTree) -> tuple[float, float]:
        leaf = tree.leaf(vectors)
        share = np.bincount(leaf) / len(leaf)
        share = share[share > 0]
        error = np.square(vectors - tree.colours(tree.depth)[leaf]).sum(1).mean()
        return float(-(share * np.log2(share)).sum()), float(error)

    (plain_bits, plain_error), (bits, error) = bits_and_error(plain), bits_and_error(aware)
    assert error < plain_error
    assert bits < 0.6 * plain_bits


def test_leaves_for_the_rate_are_chosen_split_by_split() -> None:
    vectors = flat_and_detail(500)
    weights = [0.1, 0.05, 0.02]
    tree = rate_aware_tree(vectors, weights)
    counts = tree.counts.astype(float)
    for vector, leaf in zip(vectors, tree.leaf(vectors), strict=True):
        node = 0
        for depth, weight in enumerate(weights, 1):
            sizes = counts.reshape(2**depth, -1).sum(1)[2 * node : 2 * node + 2] + 0.5
            bits = -np.log2(sizes / sizes.sum())
            pair = tree.colours(depth)[2 * node : 2 * node + 2]
            costs = np.square(vector - pair).sum(1) + weight * bits
            node = 2 * node + int(leaf >> (3 - depth) & 1)
            assert costs[node & 1] <= costs.min() + 1e-5
        assert node == leaf


@pytest.mark.parametrize("weights", [(0.1,), (0.1, -1.0), (0.1, float("nan")), (0.1, 1e12)])
def test_senseless_rate_weights_are_refused(weights: tuple[float, ...]) -> None:
    tree = tree_of(depth=2)
    with pytest.raises(BundleError) as refused:
        PaletteTree(tree.nodes, tree.counts, tree.exponent, weights)
    assert refused.value.reason == "bad_palette"
    arrays = tree.to_arrays("a") | {"a.rate_weights": np.array(weights, np.float32)}
    with pytest.raises(BundleError):
        PaletteTree.from_arrays("a", arrays)


def test_rate_weights_are_stored_with_the_tree() -> None:
    tree = rate_aware_tree(flat_and_detail(500), [0.5, 0.25])
    assert PaletteTree.from_arrays("a", tree.to_arrays("a")).rate_weights == (0.5, 0.25)
    assert "a.rate_weights" not in tree_of().to_arrays("a")


@given(st.integers(0, 50))
def test_the_full_search_finds_the_nearest_leaf(seed: int) -> None:
    tree = tree_of()
    vectors = np.random.default_rng(seed).standard_normal((40, 3)).astype(np.float32)
    distances = ((vectors[:, None] - tree.colours(4)[None]) ** 2).sum(2)
    found = distances[np.arange(40), tree.nearest_leaf(vectors)]
    np.testing.assert_allclose(found, distances.min(1), rtol=1e-4, atol=1e-6)


def test_leaves_that_nothing_chose_do_not_move_their_parent() -> None:
    tree = PaletteTree.from_leaves(np.array([[1.0], [100.0]]), np.array([5, 0]))
    assert tree.colours(0)[0, 0] == pytest.approx(1.0, abs=0.05)


def test_a_palette_of_zeros_is_a_palette() -> None:
    tree = PaletteTree.from_leaves(np.zeros((4, 2)), np.zeros(4, np.int64))
    assert tree.colours(2).tolist() == [[0, 0]] * 4


def test_arrays_round_trip_through_files() -> None:
    palette = chain_of(ROWS)
    again = MarkovPalette.from_arrays(palette.planes, palette.states, palette.to_arrays())
    for name, tree in palette.trees.items():
        np.testing.assert_array_equal(again.trees[name].nodes, tree.nodes)
        assert again.trees[name].exponent == tree.exponent


def test_merging_step_by_step_is_merging_at_once() -> None:
    palette = chain_of(ROWS)
    rng = np.random.default_rng(1)
    features = {
        "s": rng.standard_normal((5, 6, 7)).astype(np.float32),
        "t": rng.standard_normal((2, 12, 14)).astype(np.float32),
    }
    finest = palette.encode(features)
    stepwise = finest
    for state in range(palette.coarsest_state):
        stepwise = palette.merge(stepwise, state, state + 1)
        at_once = palette.merge(finest, 0, state + 1)
        assert all((stepwise[name] == at_once[name]).all() for name in finest)


def test_coarser_states_are_never_closer_to_the_features_on_the_training_points() -> None:
    """On the leaves themselves, weighted by their counts, distortion grows along the chain."""
    tree = tree_of(depth=5, channels=2)
    leaves, weights = tree.colours(5), tree.counts.astype(float)
    errors = []
    for depth in range(5, -1, -1):
        parents = tree.colours(depth)[np.arange(32) >> (5 - depth)]
        errors.append((weights * ((leaves - parents) ** 2).sum(1)).sum())
    assert errors == sorted(errors)


def test_decoding_gives_every_scale_its_channels_in_order() -> None:
    palette = chain_of(ROWS)
    indices = {
        "a": np.full((2, 3), 5, np.int32),
        "b": np.full((2, 3), 2, np.int32),
        "c": np.full((4, 6), 1, np.int32),
    }
    decoded = palette.decode(indices, 0)
    assert decoded["s"].shape == (5, 2, 3)
    assert decoded["t"].shape == (2, 4, 6)
    np.testing.assert_array_equal(decoded["s"][:3, 0, 0], palette.trees["a"].colours(4)[5])
    np.testing.assert_array_equal(decoded["s"][3:, 1, 2], palette.trees["b"].colours(3)[2])


def test_distortion_is_the_mean_squared_error_of_a_state() -> None:
    palette = chain_of(ROWS)
    colours = palette.trees["a"].colours(4)[3], palette.trees["b"].colours(3)[1]
    features = {
        "s": np.concatenate(colours)[:, None, None] + np.zeros((1, 2, 2), np.float32),
        "t": palette.trees["c"].colours(2)[0][:, None, None] + np.zeros((1, 4, 4), np.float32),
    }
    indices = palette.encode(features)
    assert distortion(palette, features, indices, 0) == 0
    assert distortion(palette, features, indices, 3) > 0


def test_there_is_no_way_back_to_a_finer_state() -> None:
    palette = chain_of(ROWS)
    with pytest.raises(ValueError, match="finer"):
        palette.merge({}, 2, 1)


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(4, 3)],
        [(4, 3, 2), (4, 3, 0), (4, 3, 1)],
        [(5, 3, 2)],
    ],
)
def test_a_state_table_that_does_not_fit_is_refused(rows: list[tuple[int, ...]]) -> None:
    with pytest.raises(BundleError) as refused:
        chain_of(rows)
    assert refused.value.reason == "bad_states"


def test_planes_that_leave_a_gap_are_refused() -> None:
    planes = [PlaneSpec(name="a", scale="s", first_channel=1, channels=3, depth=4)]
    with pytest.raises(BundleError, match="gap"):
        chain_of([(4,)], planes)


@pytest.mark.parametrize(
    ("nodes", "counts", "exponent"),
    [
        (np.zeros((7, 2), np.float32), np.zeros(4, np.uint32), 0),
        (np.zeros((6, 2), np.int16), np.zeros(4, np.uint32), 0),
        (np.zeros((1, 2), np.int16), np.zeros(1, np.uint32), 0),
        (np.zeros(7, np.int16), np.zeros(4, np.uint32), 0),
        (np.zeros((7, 0), np.int16), np.zeros(4, np.uint32), 0),
        (np.zeros((7, 2), np.int16), np.zeros(3, np.uint32), 0),
        (np.zeros((7, 2), np.int16), np.zeros(4, np.int64), 0),
        (np.zeros((7, 2), np.int16), np.zeros(4, np.uint32), 99),
    ],
)
def test_malformed_trees_are_refused(nodes: np.ndarray, counts: np.ndarray, exponent: int) -> None:
    with pytest.raises(BundleError) as refused:
        PaletteTree(nodes, counts, exponent)
    assert refused.value.reason == "bad_palette"


def test_a_tree_of_another_shape_than_the_manifest_says_is_refused() -> None:
    palette = chain_of(ROWS)
    other = [p.model_copy(update={"depth": 5}) for p in palette.planes]
    with pytest.raises(BundleError, match="the manifest says depth 5"):
        MarkovPalette.from_arrays(other, palette.states, palette.to_arrays())
    with pytest.raises(BundleError, match="plane 'a'"):
        MarkovPalette.from_arrays(palette.planes, palette.states, {})
