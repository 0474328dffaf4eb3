"""The codec as a whole: exact round trips, embedded states, refusals."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.markov_palette.coding import MarkovPaletteCodec
from codec.settings import FeatureSettings, with_settings
from shared.bitstream import Bitstream, Layer
from shared.bundle import Bundle
from shared.errors import BitstreamError, BundleError
from tests.support.tiny_bundle import codec_files, make_codec_bundle, tiny_manifest
from tests.support.tiny_features import encode, features


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_codec_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def codec(bundle: Bundle) -> MarkovPaletteCodec:
    return MarkovPaletteCodec(bundle)


@given(st.integers(16, 200), st.integers(16, 200), st.integers(0, 1000))
def test_every_state_decodes_to_exactly_the_merged_indices(
    bundle: Bundle, codec: MarkovPaletteCodec, width: int, height: int, seed: int
) -> None:
    finest = codec.chains[0].quantise(features(width, height, seed))
    whole = encode(bundle, width, height, seed)
    for state in range(codec.chains[0].palette.coarsest_state + 1):
        data = whole.truncate(state).to_bytes()
        decoded = codec.decode(Bitstream.from_bytes(data)).indices
        merged = codec.chains[0].palette.merge(finest, 0, state)
        assert all((decoded[name] == merged[name]).all() for name in merged)


def test_truncating_gives_byte_for_byte_what_encoding_at_that_state_gives(
    bundle: Bundle, codec: MarkovPaletteCodec
) -> None:
    indices = codec.chains[0].quantise(features(150, 70))
    whole = codec.chains[0].code(indices, 150, 70)
    for state in range(5):
        alone = codec.chains[0].code(indices, 150, 70, state=state)
        assert whole.truncate(state).to_bytes() == alone.to_bytes()


def test_latents_are_the_colours_of_the_state(bundle: Bundle, codec: MarkovPaletteCodec) -> None:
    bitstream = encode(bundle, 64, 48).truncate(3)
    latents = codec.decode(bitstream)
    expected = codec.chains[0].palette.decode(codec.decode(bitstream).indices, 3)
    assert (latents.state, latents.width, latents.height) == (3, 64, 48)
    for scale, values in expected.items():
        np.testing.assert_array_equal(latents.scales[scale], values)


def test_another_bundles_bitstream_is_refused_by_name(
    bundle: Bundle, codec: MarkovPaletteCodec
) -> None:
    foreign = dataclasses.replace(encode(bundle, 32, 32), bundle_id=b"\x01" * 8)
    with pytest.raises(BitstreamError, match="0101010101010101") as refused:
        codec.decode(foreign)
    assert refused.value.reason == "wrong_bundle"
    assert refused.value.details == {"wanted": "01" * 8, "have": bundle.short_id.hex()}
    for remedy in ("--bundle", "encode the photo again"):
        assert remedy in refused.value.message
    with pytest.raises(BitstreamError) as refused:
        codec.shorten(foreign, 50)
    assert refused.value.reason == "wrong_bundle"


def test_a_chain_that_does_not_begin_at_the_coarsest_state_is_refused(
    bundle: Bundle, codec: MarkovPaletteCodec
) -> None:
    whole = encode(bundle, 32, 32)
    for layers in (whole.layers[1:], (Layer(5, b""), *whole.layers)):
        with pytest.raises(BitstreamError) as refused:
            codec.decode(dataclasses.replace(whole, layers=layers))
        assert refused.value.reason == "bad_state"


def test_a_payload_larger_than_its_splits_could_fill_is_refused(
    bundle: Bundle, codec: MarkovPaletteCodec
) -> None:
    whole = encode(bundle, 32, 32)
    stuffed = (Layer(whole.layers[0].state, bytes(4096)), *whole.layers[1:])
    with pytest.raises(BitstreamError) as refused:
        codec.decode(dataclasses.replace(whole, layers=stuffed))
    assert refused.value.reason == "limit_exceeded"


def test_damage_inside_a_layer_names_the_layer(bundle: Bundle, codec: MarkovPaletteCodec) -> None:
    whole = encode(bundle, 320, 320)
    broken = list(whole.layers)
    broken[2] = Layer(broken[2].state, broken[2].payload + bytes(8))
    with pytest.raises(BitstreamError, match="layer of state 2") as refused:
        codec.decode(dataclasses.replace(whole, layers=tuple(broken)))
    assert refused.value.reason == "bad_payload"


@pytest.mark.parametrize(
    "broken",
    [
        {"semantic": np.zeros((8, 2, 2), np.float32)},
        {"semantic": np.zeros((7, 2, 2), np.float32), "texture": np.zeros((3, 4, 4), np.float32)},
        {"semantic": np.zeros((8, 2), np.float32), "texture": np.zeros((3, 4, 4), np.float32)},
        {
            "semantic": np.full((8, 2, 2), np.nan, np.float32),
            "texture": np.zeros((3, 4, 4), np.float32),
        },
    ],
)
def test_features_of_a_wrong_shape_or_value_are_refused(
    codec: MarkovPaletteCodec, broken: dict[str, np.ndarray]
) -> None:
    with pytest.raises(ValueError, match="features of scale"):
        codec.encode(broken, 32, 32)


def test_tables_of_another_depth_are_refused(tmp_path: Path) -> None:
    manifest = tiny_manifest()
    settings = FeatureSettings.model_validate(manifest.settings)
    files = codec_files()
    swapped = tuple(
        p.model_copy(update={"depth": 4}) if p.name == "semantic_0" else p for p in settings.planes
    )
    rows = tuple(
        s.model_copy(update={"depths": (min(4, s.depths[0]), *s.depths[1:])})
        for s in settings.states
    )
    changed = with_settings(manifest, planes=swapped, states=rows)
    with pytest.raises(BundleError):
        MarkovPaletteCodec(Bundle.create(tmp_path, changed, files))


def test_contexts_must_fit_their_palette(tmp_path: Path) -> None:
    files = codec_files()
    arrays = dict(np.load(io.BytesIO(files["contexts.npz"])))
    for number, name in enumerate(arrays):
        kept = {key: values for key, values in arrays.items() if key != name}
        buffer = io.BytesIO()
        np.savez(buffer, **kept)
        broken = files | {"contexts.npz": buffer.getvalue()}
        with pytest.raises(BundleError) as refused:
            MarkovPaletteCodec(Bundle.create(tmp_path / str(number), tiny_manifest(), broken))
        assert refused.value.reason == "bad_contexts"
