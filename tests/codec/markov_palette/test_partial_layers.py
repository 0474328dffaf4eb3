"""Passes inside a layer: exact prefixes, exact budgets, transcoding without the photo, refusals."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.markov_palette.coding import MarkovPaletteCodec
from codec.settings import FeatureSettings, with_settings
from shared.bitstream import Bitstream, Layer, PartialLayer
from shared.bundle import Bundle
from shared.errors import BitstreamError, BudgetError
from shared.targets import RateTarget
from tests.support.tiny_bundle import make_codec_bundle
from tests.support.tiny_features import features

SIZE = (330, 250)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_codec_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> MarkovPaletteCodec:
    return MarkovPaletteCodec(bundle)


@pytest.fixture(scope="module")
def whole(codec: MarkovPaletteCodec) -> Bitstream:
    return codec.encode(features(*SIZE), *SIZE)


def points(codec: MarkovPaletteCodec) -> list[tuple[int, int]]:
    """Every (state, passes) of the tiny chain, coarsest first."""
    found = []
    for state in range(codec.chains[0].palette.coarsest_state, -1, -1):
        following = len(codec.chains[0].palette.passes(state - 1)) if state else 1
        found += [(state, passes) for passes in range(following)]
    return found


@given(st.data(), st.integers(16, 150), st.integers(16, 150), st.integers(0, 1000))
def test_a_prefix_of_passes_decodes_to_exactly_the_nodes_that_they_reach(
    codec: MarkovPaletteCodec, data: st.DataObject, width: int, height: int, seed: int
) -> None:
    state, passes = data.draw(st.sampled_from(points(codec)))
    finest = codec.chains[0].quantise(features(width, height, seed))
    coded = codec.chains[0].code(finest, width, height, state=state, passes=passes)
    read = Bitstream.from_bytes(coded.to_bytes())
    assert read == coded
    latents = codec.decode(read)
    depths = {
        name: np.full(grid.shape, codec.chains[0].palette.depths(state)[name])
        for name, grid in finest.items()
    }
    for step in codec.chains[0].palette.passes(state - 1)[:passes] if passes else ():
        rows, columns = np.indices(depths[step.plane].shape)
        depths[step.plane][(rows + columns) % 2 == step.side] = step.depth + 1
    for name, grid in finest.items():
        np.testing.assert_array_equal(latents.depths[name], depths[name])
        below = codec.chains[0].palette.trees[name].depth - depths[name]
        np.testing.assert_array_equal(latents.indices[name], grid >> below)
    assert latents.state == state
    assert (latents.progress > 0) == (passes > 0)
    # A scale of one position has passes without positions: then there may be nothing left to come.
    assert latents.progress < 1 or (width, height) == (16, 16)


def test_positions_that_were_not_reached_keep_their_coarser_colour(
    codec: MarkovPaletteCodec,
) -> None:
    finest = codec.chains[0].quantise(features(*SIZE))
    # State 2 has no texture; the first pass of state 1 splits it where row + column is even.
    chain = codec.chains[0]
    coarse, mixed, fine = (
        codec.decode(chain.code(finest, *SIZE, state=state, passes=passes)).scales["texture"]
        for state, passes in ((2, 0), (2, 1), (1, 0))
    )
    rows, columns = np.indices(mixed.shape[1:])
    reached = (rows + columns) % 2 == 0
    np.testing.assert_array_equal(mixed[:, reached], fine[:, reached])
    np.testing.assert_array_equal(mixed[:, ~reached], coarse[:, ~reached])
    assert not np.array_equal(fine, coarse)


@given(st.integers(0, 1200), st.sampled_from([0.0, 0.4]))
def test_a_budget_is_kept_and_one_more_pass_would_break_it(
    codec: MarkovPaletteCodec, whole: Bitstream, spare: int, rate_weight: float
) -> None:
    values = features(*SIZE)
    smallest = min(whole.cumulative_bytes().values())
    budget = smallest + spare
    coded = codec.encode(values, *SIZE, RateTarget(max_bytes=budget), rate_weight=rate_weight)
    assert len(coded.to_bytes()) == coded.file_bytes <= budget
    place = (coded.state, coded.partial.passes if coded.partial else 0)
    following = points(codec)[points(codec).index(place) + 1 :]
    if following:
        indices = codec.chains[0].quantise(values, rate_weight)
        state, passes = following[0]
        more = codec.chains[0].code(indices, *SIZE, state=state, passes=passes)
        assert more.file_bytes > budget


@given(st.integers(0, 1200))
def test_shortening_gives_byte_for_byte_what_encoding_within_the_budget_gives(
    codec: MarkovPaletteCodec, whole: Bitstream, spare: int
) -> None:
    budget = min(whole.cumulative_bytes().values()) + spare
    coded = codec.encode(features(*SIZE), *SIZE, RateTarget(max_bytes=budget))
    short = codec.shorten(whole, budget)
    assert short.to_bytes() == coded.to_bytes()
    # From any finer file, one that ends inside a layer too.
    between = codec.encode(features(*SIZE), *SIZE, RateTarget(max_bytes=budget + 150))
    assert codec.shorten(between, budget).to_bytes() == coded.to_bytes()


def test_a_partial_file_is_the_finer_file_with_layers_dropped_and_a_message_of_its_own(
    codec: MarkovPaletteCodec, whole: Bitstream
) -> None:
    partial = codec.shorten(whole, whole.cumulative_bytes()[1] + 250)
    assert partial.partial is not None
    assert partial.state == 1
    assert partial.truncate(1) == whole.truncate(1)
    # The whole layers' bytes are the same, header aside: checksums do not look ahead.
    end = whole.cumulative_bytes()[1]
    assert partial.to_bytes()[23:end] == whole.to_bytes()[23:end]


def test_budgets_below_the_coarsest_state_are_refused(
    codec: MarkovPaletteCodec, whole: Bitstream
) -> None:
    needed = min(whole.cumulative_bytes().values())
    for attempt in (
        lambda: codec.shorten(whole, needed - 1),
        lambda: codec.encode(features(*SIZE), *SIZE, RateTarget(max_bytes=needed - 1)),
    ):
        with pytest.raises(BudgetError) as refused:
            attempt()
        assert refused.value.reason == "budget_too_small"
        assert refused.value.details == {"budget_bytes": needed - 1, "needed_bytes": needed}


@pytest.mark.parametrize(
    ("passes", "reason"), [(0, "bad_passes"), (6, "bad_passes"), (9999, "bad_passes")]
)
def test_impossible_pass_counts_are_refused(
    codec: MarkovPaletteCodec, whole: Bitstream, passes: int, reason: str
) -> None:
    # State 0 adds two splits of the texture to state 1: four passes, of which three are a part.
    forged = dataclasses.replace(whole.truncate(1), partial=PartialLayer(0, passes, b""))
    with pytest.raises(BitstreamError) as refused:
        codec.decode(forged)
    assert refused.value.reason == reason


def test_all_passes_of_a_layer_are_no_partial_layer(
    codec: MarkovPaletteCodec, whole: Bitstream
) -> None:
    payload = whole.layers[-1].payload
    forged = dataclasses.replace(whole.truncate(1), partial=PartialLayer(0, 4, payload))
    with pytest.raises(BitstreamError, match="no partial layer") as refused:
        codec.decode(forged)
    assert refused.value.reason == "bad_passes"


@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_pass_count_does_not_fit_its_payload(
    codec: MarkovPaletteCodec, whole: Bitstream, change: int
) -> None:
    """Every checksum right: the decoder encodes again, and sees that the message is another's."""
    indices = codec.chains[0].quantise(features(*SIZE))
    good = codec.chains[0].code(indices, *SIZE, state=1, passes=2)
    assert good.partial is not None
    forged = dataclasses.replace(
        good, partial=PartialLayer(0, 2 + change, good.partial.payload)
    ).to_bytes()
    with pytest.raises(BitstreamError, match="layer of state 0") as refused:
        codec.decode(Bitstream.from_bytes(forged))
    assert refused.value.reason == "bad_payload"


def test_a_partial_layer_has_its_place_behind_its_state(whole: Bitstream) -> None:
    for state in (2, 1):
        misplaced = dataclasses.replace(whole.truncate(1), partial=PartialLayer(state, 1, b""))
        with pytest.raises(BitstreamError) as refused:
            misplaced.to_bytes()
        assert refused.value.reason == "bad_state"


def test_a_stuffed_partial_layer_is_refused_before_it_is_decoded(
    codec: MarkovPaletteCodec, whole: Bitstream
) -> None:
    stuffed = dataclasses.replace(whole.truncate(1), partial=PartialLayer(0, 1, bytes(8192)))
    with pytest.raises(BitstreamError) as refused:
        codec.decode(stuffed)
    assert refused.value.reason == "limit_exceeded"


def test_shortening_refuses_layers_that_no_encoder_writes(
    codec: MarkovPaletteCodec, whole: Bitstream
) -> None:
    layers = list(whole.layers)
    layers[1] = Layer(layers[1].state, layers[1].payload + bytes(8))
    forged = dataclasses.replace(whole, layers=tuple(layers))
    with pytest.raises(BitstreamError) as refused:
        codec.shorten(forged, whole.cumulative_bytes()[2] + 20)
    assert refused.value.reason == "bad_payload"


def test_passes_that_do_not_exist_cannot_be_asked_for(codec: MarkovPaletteCodec) -> None:
    indices = codec.chains[0].quantise(features(64, 64))
    for state, passes in ((0, 1), (1, 4), (1, -1)):
        with pytest.raises(ValueError, match="cannot be followed"):
            codec.chains[0].code(indices, 64, 64, state=state, passes=passes)
    with pytest.raises(ValueError, match="not the grids"):
        codec.chains[0].code(indices, 64, 65, state=1)


def test_states_of_equal_depth_have_an_empty_layer(tmp_path: Path) -> None:
    """A state table may repeat a row; nothing is partial about a layer without passes."""
    from tests.support.tiny_bundle import codec_files, tiny_manifest

    manifest = tiny_manifest()
    rows = FeatureSettings.model_validate(manifest.settings).states
    doubled = [*rows[:2], *rows[1:]]
    states = tuple(row.model_copy(update={"state": n}) for n, row in enumerate(doubled))
    made = Bundle.create(tmp_path, with_settings(manifest, states=states), codec_files())
    codec = MarkovPaletteCodec(made)
    coded = codec.encode(features(*SIZE), *SIZE)
    assert coded.layers[-2] == Layer(1, b"")
    for budget in range(coded.cumulative_bytes()[2], coded.file_bytes, 7):
        short = codec.shorten(coded, budget)
        assert short.file_bytes <= budget
        codec.decode(Bitstream.from_bytes(short.to_bytes()))
