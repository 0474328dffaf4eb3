"""Predicted frames of palette trees: what follows the reference is nearly free, the rest exact."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.latents import FeatureLatents
from codec.markov_palette.coding import MarkovPaletteCodec, PaletteChain
from codec.markov_palette.temporal.assignment import FollowingLeaves
from codec.markov_palette.temporal.contexts import PREFIX, TemporalModel
from codec.markov_palette.train.small import tiny_contexts
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import BitstreamError, BundleError
from shared.targets import RateTarget, Region
from tests.support.hostile_bitstreams import reseal
from tests.support.tiny_bundle import make_codec_bundle, tiny_palette
from tests.support.tiny_features import features

SIZE = (330, 250)
Features = dict[str, np.ndarray]
Indices = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_codec_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> MarkovPaletteCodec:
    return MarkovPaletteCodec(bundle)


@pytest.fixture(scope="module")
def chain(codec: MarkovPaletteCodec) -> PaletteChain:
    return codec.chains[0]


def moved(before: Features, share: float, seed: int = 1) -> Features:
    """A share of the positions with other values."""
    rng, other = np.random.default_rng(seed), features(*SIZE, seed + 50)
    after = {}
    for scale, grid in before.items():
        after[scale] = np.where(rng.random(grid.shape[1:]) < share, other[scale], grid)
    return after


def changed(leaves: Indices, chain: PaletteChain, seed: int) -> Indices:
    """Some leaves of any kind, and some that differ in their last split only."""
    rng, found = np.random.default_rng(seed), {}
    for name, grid in leaves.items():
        tree = chain.palette.trees[name]
        other = rng.integers(0, 2**tree.depth, grid.shape).astype(np.int32)
        kind = rng.random(grid.shape)
        found[name] = np.where(kind < 0.1, other, np.where(kind < 0.2, grid ^ 1, grid))
    return found


@given(st.integers(16, 90), st.integers(16, 90), st.integers(0, 999), st.integers(0, 4))
@settings(max_examples=25, deadline=None)
def test_any_leaves_come_back_with_a_reference_of_any_state(
    codec: MarkovPaletteCodec, width: int, height: int, seed: int, known: int
) -> None:
    chain = codec.chains[0]
    before = chain.quantise(features(width, height, seed))
    after = changed(before, chain, seed)
    reference = chain.decode(chain.code(before, width, height, state=known))
    made = chain.code(after, width, height, reference=reference)
    for state in range(5):
        read = Bitstream.from_bytes(made.truncate(state).to_bytes())
        found = codec.decode(read, reference)
        for name, grid in chain.palette.merge(after, 0, state).items():
            np.testing.assert_array_equal(found.indices[name], grid)
        coarser = codec.cut(reference, max(state, known))
        assert codec.decode(read, coarser).checksum() == found.checksum()


def test_a_coarser_reference_than_was_coded_with_is_a_mismatch(chain: PaletteChain) -> None:
    before = chain.quantise(features(*SIZE))
    reference = chain.decode(chain.code(before, *SIZE, state=1))
    for after in (before, changed(before, chain, 3)):
        made = chain.code(after, *SIZE, reference=reference)
        coarser = chain.cut(reference, 3)
        assert chain.decode(made.truncate(3), coarser).state == 3
        read = Bitstream.from_bytes(made.to_bytes())
        with pytest.raises(BitstreamError, match=r"state 2, and its .* state 3") as refused:
            chain.decode(read, coarser)
        assert refused.value.reason == "reference_mismatch"


def test_layers_that_repeat_the_reference_are_empty(chain: PaletteChain) -> None:
    before = chain.quantise(features(*SIZE))
    reference = chain.decode(chain.code(before, *SIZE))
    still = chain.code(before, *SIZE, reference=reference)
    assert [layer.payload for layer in still.layers] == [b""] * 5
    assert still.file_bytes < 40
    one = {name: grid.copy() for name, grid in before.items()}
    one["texture_0"][3, 4] ^= 1
    made = chain.code(one, *SIZE, reference=reference)
    assert [bool(layer.payload) for layer in made.layers] == [False] * 4 + [True]
    forged = dataclasses.replace(
        chain.code(changed(before, chain, 2), *SIZE, reference=reference),
        layers=(*chain.code(changed(before, chain, 2), *SIZE, reference=reference).layers[:2],
                *still.layers[2:]),
    )  # fmt: skip
    with pytest.raises(BitstreamError, match="layer of state 2") as refused:
        chain.decode(forged, reference)
    assert refused.value.reason == "bad_payload"


def test_budgets_and_parts_of_layers(codec: MarkovPaletteCodec) -> None:
    chain, values = codec.chains[0], features(*SIZE)
    reference = chain.decode(chain.encode(values, *SIZE))
    after = moved(values, 0.15)
    whole = chain.encode(after, *SIZE, reference=reference)
    assert whole.reference is not None
    for budget in range(whole.truncate(4).file_bytes, whole.file_bytes, 90):
        made = chain.encode(after, *SIZE, RateTarget(max_bytes=budget), reference=reference)
        assert made.file_bytes <= budget
        read = Bitstream.from_bytes(made.to_bytes())
        found = codec.decode(read, reference)
        assert found.state == made.state
        assert codec.shorten(whole, budget, reference) == made
        again = codec.decode(codec.key_frame(found, 4))
        assert again.checksum() == found.checksum()


@pytest.mark.parametrize("share", [0.02, 0.08])
def test_bits_follow_what_changes(chain: PaletteChain, share: float) -> None:
    values = features(*SIZE)
    key = chain.encode(values, *SIZE)
    reference = chain.decode(key)
    made = chain.encode(moved(values, share), *SIZE, reference=reference)
    assert made.reference is not None
    assert made.file_bytes < (0.1 + 4 * share) * key.file_bytes


def test_a_cut_is_a_key_frame(chain: PaletteChain) -> None:
    reference = chain.decode(chain.encode(features(*SIZE), *SIZE))
    made = chain.encode(features(*SIZE, 99), *SIZE, reference=reference)
    assert made.reference is None
    alone = chain.encode(features(*SIZE, 99), *SIZE)
    assert made == alone
    assert chain.decode(made).checksum() == chain.decode(alone).checksum()


def test_a_larger_weight_keeps_more_of_the_reference(chain: PaletteChain) -> None:
    values = features(*SIZE)
    reference = chain.decode(chain.encode(values, *SIZE, rate_weight=0.0))
    noisy = {
        scale: grid + np.random.default_rng(4).normal(0, 0.3, grid.shape).astype(np.float32)
        for scale, grid in values.items()
    }
    sizes = [
        chain.encode(noisy, *SIZE, reference=reference, rate_weight=weight).file_bytes
        for weight in (0.0, 0.05, 0.3)
    ]
    assert sizes[0] > sizes[1] > sizes[2]


def test_regions_follow_the_reference_outside(codec: MarkovPaletteCodec) -> None:
    chain, values = codec.chains[0], features(*SIZE)
    reference = chain.decode(chain.encode(values, *SIZE))
    after, regions = moved(values, 0.15), (Region(0.1, 0.1, 0.4, 0.5, 0),)
    everywhere = chain.encode(after, *SIZE, reference=reference)
    target = RateTarget(state=4)
    part = chain.encode(after, *SIZE, target, regions=regions, reference=reference)
    assert part.reference is not None
    assert part.state == 0
    assert part.file_bytes < 0.6 * everywhere.file_bytes
    found = codec.decode(part, reference)
    exact = codec.decode(everywhere, reference)
    for name, grid in found.indices.items():
        rows, columns = (side // 4 for side in grid.shape)
        inside = np.s_[rows // 2 : rows, columns // 2 : columns]
        assert (grid[inside] == exact.indices[name][inside]).mean() > 0.9
    budget = RateTarget(max_bytes=part.file_bytes)
    assert (
        chain.encode(after, *SIZE, budget, regions=regions, reference=reference).file_bytes
        <= part.file_bytes
    )


def test_any_arithmetic_gives_the_same_odds(chain: PaletteChain) -> None:
    model = chain.temporal
    assert model is not None
    before = chain.quantise(features(*SIZE))
    after = changed(before, chain, 7)
    shapes = {name: grid.shape for name, grid in before.items()}
    source, found = FollowingLeaves(model, after), []
    for dtype in (np.float32, np.float64, np.int64):
        contexts = model.open(shapes, before, 0, dtype)
        odds: list[np.ndarray] = []
        for state in range(4, -1, -1):

            def exchange(models: np.ndarray, state: int = state) -> np.ndarray:
                odds.append(models)  # noqa: B023
                return source(state, contexts, None, models)  # noqa: B023

            for step in chain.palette.passes(state):
                contexts.run(state, step, exchange)
        found.append(np.concatenate(odds))
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[0], found[2])
    assert len(np.unique(found[0])) > 50


def test_mutants_are_refused_or_decoded_to_what_fits(codec: MarkovPaletteCodec) -> None:
    chain, values = codec.chains[0], features(*SIZE)
    reference = chain.decode(chain.encode(values, *SIZE))
    made = chain.encode(moved(values, 0.1), *SIZE, reference=reference)
    rng, refused = np.random.default_rng(5), 0
    for _ in range(300):
        try:
            found = codec.decode(Bitstream.from_bytes(reseal(made, rng)), reference)
        except BitstreamError:
            refused += 1
        else:
            assert isinstance(found, FeatureLatents)
            for name, grid in found.indices.items():
                assert (grid >> found.depths[name].astype(np.int32) == 0).all()
    assert refused > 100


def test_bundles_without_the_arrays_predict_nothing(bundle: Bundle, tmp_path: Path) -> None:
    arrays = bundle.read_arrays("contexts.npz")
    palette = tiny_palette()
    contexts = tiny_contexts(palette)
    old = {name: values for name, values in arrays.items() if not name.startswith(PREFIX)}
    assert TemporalModel.from_arrays(contexts, old) is None
    new = TemporalModel.from_arrays(contexts, arrays)
    assert new is not None
    for name, values in new.to_arrays().items():
        np.testing.assert_array_equal(arrays[name], values)
        with pytest.raises(BundleError) as refused:
            TemporalModel.from_arrays(contexts, {n: v for n, v in arrays.items() if n != name})
        assert refused.value.reason == "bad_contexts"


@pytest.mark.parametrize(
    ("name", "value"),
    [("change_weights", 32767), ("change_entry", 2**24), ("change_readout", -32768),
     ("change_bias", 2**24), ("change_prior", -(2**24)), ("change_shifts", 31),
     ("change_still", 0), ("change_costs", np.nan), ("mates", 32767)],
)  # fmt: skip
def test_forged_networks_are_refused(bundle: Bundle, name: str, value: float) -> None:
    arrays = bundle.read_arrays("contexts.npz")
    contexts = tiny_contexts(tiny_palette())
    forged = {key: array.copy() for key, array in arrays.items()}
    forged[f"{PREFIX}texture_0.{name}"][:] = value
    with pytest.raises(BundleError) as refused:
        TemporalModel.from_arrays(contexts, forged)
    assert refused.value.reason == "bad_contexts"
