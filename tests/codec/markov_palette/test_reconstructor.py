"""Reconstruction: batches, sizes, tiles without seams, and decoders that do not fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cloud_server.engine.files import BitstreamDecoder, parse
from codec.latents import FeatureLatents
from codec.markov_palette import reconstruct as reconstructor
from codec.markov_palette.coding import MarkovPaletteCodec
from codec.markov_palette.reconstruct import PictureReconstructor
from codec.settings import FeatureSettings, with_settings
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from shared.errors import BitstreamError, BundleError, TaskError
from tests.support.tiny_bundle import make_codec_bundle, make_tiny_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def data(bundle: Bundle, photos: dict[str, np.ndarray]) -> bytes:
    return EdgeEncoder(bundle).encode(photos["coffee"]).to_bytes()


def latents_of(bundle: Bundle, data: bytes, state: int = 0) -> FeatureLatents:
    from shared.bitstream import Bitstream

    return MarkovPaletteCodec(bundle).decode(Bitstream.from_bytes(data).truncate(state))


def test_pictures_have_the_size_of_the_original(bundle: Bundle, data: bytes) -> None:
    decoder = BitstreamDecoder(bundle)
    bitstream, warning = parse(data)
    picture = decoder.picture(bitstream)
    assert (picture.shape, picture.dtype, warning) == ((400, 600, 3), np.uint8, None)


def test_a_batch_of_states_gives_what_each_alone_gives(bundle: Bundle, data: bytes) -> None:
    worker = PictureReconstructor.from_bundle(bundle)
    batch = [latents_of(bundle, data, state) for state in (0, 2, 4)]
    together = worker.reconstruct(batch)
    for latents, picture in zip(batch, together, strict=True):
        np.testing.assert_array_equal(worker.reconstruct([latents])[0], picture)
    assert not np.array_equal(together[0], together[2])
    assert worker.reconstruct([]) == []


def test_a_partial_layer_comes_between_the_states_around_it(bundle: Bundle, data: bytes) -> None:
    from shared.bitstream import Bitstream

    codec = MarkovPaletteCodec(bundle)
    worker = PictureReconstructor.from_bundle(bundle)
    indices = codec.decode(Bitstream.from_bytes(data)).indices
    told = []
    for passes in range(4):
        latents = codec.decode(codec.chains[0].code(indices, 600, 400, state=1, passes=passes))
        told.append(latents.progress)
        picture = worker.reconstruct([latents])[0]
        for state, equal in ((1, passes == 0), (0, False)):
            whole = worker.reconstruct([latents_of(bundle, data, state)])[0]
            assert np.array_equal(picture, whole) == equal
    assert told == pytest.approx([0, 0.25, 0.5, 0.75])


def test_tiles_leave_no_seam(bundle: Bundle, data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = PictureReconstructor.from_bundle(bundle)
    latents = latents_of(bundle, data)
    whole = worker.reconstruct([latents])[0]
    monkeypatch.setattr(reconstructor, "TILE_POSITIONS", 9)
    np.testing.assert_array_equal(worker.reconstruct([latents])[0], whole)


def test_a_cut_file_gives_the_finest_complete_state_with_a_warning(
    bundle: Bundle, data: bytes
) -> None:
    from shared.bitstream import Bitstream

    size = Bitstream.from_bytes(data).cumulative_bytes()[2]
    bitstream, warning = parse(data[: size + 3])
    assert bitstream.state == 2
    assert warning is not None
    assert "state 2 is the finest" in warning
    for damaged in (data[:-1] + bytes([data[-1] ^ 1]), data[:20], b"junk"):
        with pytest.raises(BitstreamError):
            parse(damaged)


def test_a_state_the_file_lacks_is_refused(bundle: Bundle, data: bytes) -> None:
    with pytest.raises(BitstreamError, match="state 7 is not present"):
        parse(data, 7)


def test_decoders_that_do_not_fit_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    decoder = FeatureSettings.of(bundle).decoder
    with pytest.raises(BundleError):
        PictureReconstructor.from_bundle(make_codec_bundle(tmp_path / "none"))
    for number, (settings, weights) in enumerate(
        (
            ({"surprise": 1}, files["decoder.safetensors"]),
            ({**decoder, "states": 9}, files["decoder.safetensors"]),
            (decoder, b"not safetensors"),
        )
    ):
        manifest = with_settings(bundle.manifest, decoder=settings)
        broken = Bundle.create(
            tmp_path / str(number), manifest, files | {"decoder.safetensors": weights}
        )
        with pytest.raises(BundleError) as refused:
            PictureReconstructor.from_bundle(broken)
        assert refused.value.reason == "bad_decoder"


def test_a_device_that_is_not_there_is_named(bundle: Bundle) -> None:
    with pytest.raises(TaskError, match="nonsense"):
        BitstreamDecoder(bundle, device="nonsense")


def test_latents_of_one_pixel_pictures_still_crop(bundle: Bundle, data: bytes) -> None:
    latents = dataclasses.replace(latents_of(bundle, data), width=17, height=33)
    assert PictureReconstructor.from_bundle(bundle).reconstruct([latents])[0].shape == (33, 17, 3)
