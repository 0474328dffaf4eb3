"""Fitting context networks: they save on correlated data, and rounding costs next to nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from codec.markov_palette.contexts import ContextModel
from codec.markov_palette.palette import MarkovPalette
from codec.markov_palette.train.contexts import (
    ContextSettings,
    even_contexts,
    fit_contexts,
    node_log_odds,
    odds_table,
    static_contexts,
)
from codec.markov_palette.train.samples import ContextSamples
from tests.support.smooth_fields import SMALL, photos

Indices = dict[str, np.ndarray]


def bits(model: ContextModel, indices: Indices) -> dict[str, float]:
    """Ideal code length by scale."""
    contexts = model.open({name: grid.shape for name, grid in indices.items()})
    spent = {"semantic": 0.0, "texture": 0.0}
    for state in range(model.palette.coarsest_state, -1, -1):
        for step in model.palette.passes(state):
            below = model.palette.trees[step.plane].depth - step.depth - 1
            leaves = indices[step.plane].reshape(-1)[contexts.positions(step.plane, step.side)]
            split = ((leaves >> below) & 1).astype(np.uint8)
            chance = contexts.probabilities(*step) / 65536
            spent[step.plane[:-2]] -= np.log2(np.where(split == 1, chance, 1 - chance)).sum()
            contexts.advance(*step, split)
    return spent


@pytest.fixture(scope="module")
def fitted() -> tuple[MarkovPalette, list[Indices], ContextModel]:
    palette, made = photos(24, seed=3)
    return palette, made, fit_contexts(palette, made, SMALL)


def test_networks_save_a_fifth_of_what_static_tables_take(
    fitted: tuple[MarkovPalette, list[Indices], ContextModel],
) -> None:
    palette, made, model = fitted
    static = static_contexts(palette, made)
    _, unseen = photos(4, seed=4)
    for scale in ("semantic", "texture"):
        ours = sum(bits(model, indices)[scale] for indices in unseen)
        theirs = sum(bits(static, indices)[scale] for indices in unseen)
        assert ours < 0.8 * theirs, scale


def test_the_texture_network_looks_at_the_coarser_scale(
    fitted: tuple[MarkovPalette, list[Indices], ContextModel],
) -> None:
    """Another photo's semantic planes make the texture dearer."""
    _, _, model = fitted
    _, (one, other) = photos(2, seed=5)
    swapped = {**other, "texture_0": one["texture_0"]}
    assert bits(model, swapped)["texture"] > 1.05 * bits(model, one)["texture"]


def test_the_rounded_network_costs_what_the_float_one_costs() -> None:
    palette, made = photos(6, seed=6)
    kept = []

    from codec.markov_palette.train.contexts import FloatNetwork

    original = FloatNetwork.rounded

    def keep(self: FloatNetwork) -> object:
        kept.append(self)
        return original(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FloatNetwork, "rounded", keep)
        model = fit_contexts(palette, made, SMALL)
    samples = ContextSamples(palette, made, torch.device("cpu"))
    total, floats = sum(sum(bits(model, indices).values()) for indices in made), 0.0
    for network, plane in zip(kept, palette.planes, strict=True):
        count = samples.positions(plane.name)
        rows, parity, place = torch.arange(count), [], 0
        for indices in made:
            y, x = np.indices(indices[plane.name].shape)
            parity.append(((y + x) & 1).reshape(-1))
        sides = np.concatenate(parity)
        # A batch's halves are the two passes: pair each side with as many of the other.
        for place in (0, 1):
            chosen = rows[torch.from_numpy(sides == place)]
            halves = torch.cat([chosen, chosen])
            with torch.inference_mode():
                batch = samples.batch(plane.name, halves)
                cost = torch.nn.functional.binary_cross_entropy_with_logits(
                    network(batch), network.bits(batch.leaf), reduction="none"
                )
            half = slice(None, len(chosen)) if place == 0 else slice(len(chosen), None)
            floats += float(cost[:, half].sum()) / np.log(2)
    assert total == pytest.approx(floats, rel=0.005)


def test_the_same_seed_gives_the_same_model() -> None:
    palette, made = photos(2, seed=7)
    brief = ContextSettings(**{**SMALL.__dict__, "steps": 5})
    one, two = (fit_contexts(palette, made, brief).to_arrays() for _ in range(2))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    other = fit_contexts(palette, made, ContextSettings(**{**brief.__dict__, "seed": 2}))
    assert any(not np.array_equal(value, one[name]) for name, value in other.to_arrays().items())


def test_static_tables_are_the_nodes_frequencies() -> None:
    palette, made = photos(3, seed=8)
    spent = {plane.name: 0.0 for plane in palette.planes}
    for plane in palette.planes:
        leaves = np.concatenate([indices[plane.name].ravel() for indices in made])
        counts = np.bincount(leaves, minlength=2**plane.depth)
        chances = counts[counts > 0] / counts.sum()
        spent[plane.name] = -(chances * np.log2(chances)).sum() * len(leaves)
    total = sum(sum(bits(static_contexts(palette, made), i).values()) for i in made)
    assert total == pytest.approx(sum(spent.values()), rel=0.01)


def test_even_odds_cost_a_bit_a_split() -> None:
    palette, (indices,) = photos(1, seed=9)
    splits = sum(indices[plane.name].size * plane.depth for plane in palette.planes)
    assert sum(bits(even_contexts(palette), indices).values()) == pytest.approx(splits)


def test_the_table_of_odds_is_a_bounded_logistic() -> None:
    table = odds_table().astype(int)
    assert table[256] == 32768
    assert (np.diff(table) >= 0).all()
    assert (table + table[::-1] == 65536).all()
    assert -np.log2(table[0] / 65536) < 11.6


def test_log_odds_of_nodes_that_no_leaf_reaches_are_even() -> None:
    odds = node_log_odds(torch.tensor([0, 0, 0, 1]), 2)
    assert odds.shape == (3,)
    assert odds[0] < -1.5
    assert odds[2] == 0
