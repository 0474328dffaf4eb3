"""Encoding photos: rates are met from below, sizes of every kind work, tiles leave no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from codec import onnx as extractor_module
from codec.markov_palette.coding import DistortionTable, MarkovPaletteCodec, expected_path
from codec.onnx import FeatureExtractor
from codec.settings import FeatureSettings, with_settings
from edge_client.encoder import EdgeEncoder
from shared.bundle import ADVICE_NAME, Advice, Bundle
from shared.errors import BudgetError, BundleError, PhotoError
from shared.preprocess import block_detail
from shared.targets import RateTarget, Region
from tests.support.tiny_bundle import make_codec_bundle, make_tiny_bundle, with_model


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def encoder(bundle: Bundle) -> EdgeEncoder:
    return EdgeEncoder(bundle)


@pytest.fixture(scope="module")
def photo(photos: dict[str, np.ndarray]) -> np.ndarray:
    return photos["astronaut"]


def test_the_finest_state_is_the_default(encoder: EdgeEncoder, photo: np.ndarray) -> None:
    bitstream = encoder.encode(photo)
    assert (bitstream.width, bitstream.height, bitstream.state) == (512, 512, 0)
    assert bitstream.bundle_id == encoder.bundle.short_id


def test_encoding_at_a_state_is_truncating_to_it(encoder: EdgeEncoder, photo: np.ndarray) -> None:
    whole = encoder.encode(photo)
    for state in range(5):
        alone = encoder.encode(photo, state=state)
        assert alone.to_bytes() == whole.truncate(state).to_bytes()


def test_budgets_are_met_from_below_by_the_finest_state_that_fits(
    encoder: EdgeEncoder, photo: np.ndarray
) -> None:
    sizes = encoder.encode(photo).cumulative_bytes()
    for state, size in sizes.items():
        assert encoder.encode(photo, max_bytes=size).state == state
        if state < max(sizes):
            assert encoder.encode(photo, max_bytes=size - 1).state == state + 1
        rate = 8 * size / photo[..., 0].size
        assert encoder.encode(photo, bits_per_pixel=rate).state == state


def test_a_budget_that_nothing_meets_says_what_it_would_take(
    encoder: EdgeEncoder, photo: np.ndarray
) -> None:
    needed = min(encoder.encode(photo).cumulative_bytes().values())
    with pytest.raises(BudgetError) as refused:
        encoder.encode(photo, max_bytes=needed - 1)
    assert refused.value.reason == "budget_too_small"
    assert refused.value.details == {"budget_bytes": needed - 1, "needed_bytes": needed}


def test_a_budget_between_two_states_is_filled_with_passes(
    encoder: EdgeEncoder, photo: np.ndarray
) -> None:
    whole = encoder.encode(photo)
    sizes = whole.cumulative_bytes()
    codec = MarkovPaletteCodec(encoder.bundle)
    filled = 0
    for budget in range(sizes[4], sizes[0], (sizes[0] - sizes[4]) // 20):
        made = encoder.encode(photo, max_bytes=budget)
        assert made.file_bytes <= budget
        assert made.to_bytes() == codec.shorten(whole, budget).to_bytes()
        filled += made.partial is not None
    assert filled > 10


def test_a_psnr_target_gets_the_fewest_passes_that_are_expected_to_reach_it(
    bundle: Bundle, photo: np.ndarray, tmp_path: Path
) -> None:
    made = with_model(bundle, tmp_path)
    encoder, codec = EdgeEncoder(made), MarkovPaletteCodec(made)
    features = FeatureExtractor(made)(photo)
    indices = codec.chains[0].quantise(features)
    model = FeatureSettings.of(made).psnr_model
    assert model is not None
    path = list(
        expected_path(
            model, DistortionTable(codec.chains[0].palette, features, indices), block_detail(photo)
        )
    )
    assert [(s, p) for s, p, _ in path if p == 0] == [(s, 0) for s in (4, 3, 2, 1, 0)]
    assert len(path) == sum(MarkovPaletteCodec(made).passes(state) for state in range(4)) + 1
    levels = [level for _, _, level in path]
    assert levels == sorted(levels)
    for _, _, level in path[1:]:
        if level - levels[0] < 1e-6:
            continue
        first = next((s, p) for s, p, reached in path if reached >= level - 1e-7)
        coded = encoder.encode(photo, psnr_db=level - 1e-7)
        assert (coded.state, coded.partial.passes if coded.partial else 0) == first
        expected = codec.chains[0].code(indices, 512, 512, state=first[0], passes=first[1])
        assert coded.to_bytes() == expected.to_bytes()
    assert encoder.encode(photo, psnr_db=0).state == 4


def test_a_psnr_out_of_reach_is_an_error_unless_the_best_is_enough(
    bundle: Bundle, photo: np.ndarray, tmp_path: Path
) -> None:
    encoder = EdgeEncoder(with_model(bundle, tmp_path))
    with pytest.raises(BudgetError, match="of the finest state") as refused:
        encoder.encode(photo, psnr_db=90)
    assert refused.value.reason == "target_unreachable"
    assert refused.value.details["wanted_db"] == 90
    assert refused.value.details["expected_db"] < 90
    best = encoder.encode(photo, psnr_db=90, best_effort=True)
    assert best.to_bytes() == encoder.encode(photo).to_bytes()


def test_a_bundle_without_a_psnr_model_says_so_before_any_photo_is_read(
    encoder: EdgeEncoder,
) -> None:
    with pytest.raises(BundleError, match="give a state, bits per pixel or bytes") as refused:
        encoder.encode("no such photo.jpg", psnr_db=30)
    assert refused.value.reason == "no_psnr_model"


def test_a_rate_weight_saves_bits_and_0_is_the_nearest_colours(
    bundle: Bundle, encoder: EdgeEncoder, photo: np.ndarray
) -> None:
    plain = encoder.encode(photo)
    weighted = EdgeEncoder(bundle, rate_weight=0.5).encode(photo)
    assert weighted.file_bytes < plain.file_bytes
    # The bundle's palette was made for nearest colours.
    assert EdgeEncoder(bundle, rate_weight=0).encode(photo).layers == plain.layers
    for wrong in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BudgetError) as refused:
            EdgeEncoder(bundle, rate_weight=wrong)
        assert refused.value.reason == "bad_target"
        assert "must be a finite number" in refused.value.message


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ({"state": 5}, "unknown_state"),
        ({"state": -1}, "bad_target"),
        ({"bits_per_pixel": -0.1}, "bad_target"),
        ({"bits_per_pixel": float("nan")}, "bad_target"),
        ({"state": 1, "best_effort": True}, "bad_target"),
        ({"state": 1, "max_bytes": 100}, "two_targets"),
        ({"psnr_db": 30.0, "max_bytes": 100}, "two_targets"),
        ({"psnr_db": -1.0}, "bad_target"),
    ],
)
def test_senseless_targets_are_refused(
    encoder: EdgeEncoder, photo: np.ndarray, target: dict[str, float], reason: str
) -> None:
    with pytest.raises(BudgetError) as refused:
        encoder.encode(photo, **target)  # type: ignore[arg-type]
    assert refused.value.reason == reason


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (33, 500), (8192, 16), (16, 8192)])
def test_pictures_of_any_size_are_encoded(encoder: EdgeEncoder, size: tuple[int, int]) -> None:
    width, height = size
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    bitstream = encoder.encode(image)
    latents = MarkovPaletteCodec(encoder.bundle).decode(bitstream)
    assert latents.scales["semantic"].shape == (8, -(-height // 16), -(-width // 16))


def test_what_is_no_photo_is_refused(encoder: EdgeEncoder, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(b"no photo")
    for source in (tmp_path / "x.jpg", tmp_path / "missing.jpg", b"", np.zeros((20, 20))):
        with pytest.raises(PhotoError):
            encoder.encode(source)


def test_tiles_give_the_features_of_the_whole_picture(
    bundle: Bundle, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    extractor = FeatureExtractor(bundle)
    whole = extractor(photo)
    monkeypatch.setattr(extractor_module, "TILE_POSITIONS", 7)
    tiled = extractor(photo)
    for name, values in whole.items():
        np.testing.assert_allclose(tiled[name], values, rtol=1e-4, atol=1e-5)


def test_onnx_computes_what_the_torch_extractor_does(tmp_path: Path, photo: np.ndarray) -> None:
    import onnxruntime as ort
    import torch

    from codec.markov_palette.train.extractor_onnx import extractor_to_onnx
    from codec.markov_palette.train.networks import Extractor, ExtractorConfig

    torch.manual_seed(0)
    network = Extractor(ExtractorConfig()).eval()
    session = ort.InferenceSession(extractor_to_onnx(network))
    semantic, texture = session.run(["semantic", "texture"], {"image": photo})
    with torch.inference_mode():
        picture = torch.tensor(photo).permute(2, 0, 1)[None].float() / 255 - 0.5
        expected = network(picture)
    np.testing.assert_allclose(semantic, expected[0][0].numpy(), atol=1e-3)
    np.testing.assert_allclose(texture, expected[1][0].numpy(), atol=1e-3)


def test_a_bundle_without_an_extractor_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as refused:
        EdgeEncoder(make_codec_bundle(tmp_path))
    assert refused.value.reason == "missing_file"


def test_an_extractor_that_does_not_fit_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    broken = Bundle.create(
        tmp_path / "broken", bundle.manifest, files | {"extractor.onnx": b"not onnx"}
    )
    with pytest.raises(BundleError) as refused:
        EdgeEncoder(broken)
    assert refused.value.reason == "bad_extractor"
    renamed = tuple(
        s.model_copy(update={"name": "other"}) if s.name == "texture" else s
        for s in FeatureSettings.of(bundle).scales
    )
    planes = tuple(
        p.model_copy(update={"scale": "other"}) if p.scale == "texture" else p
        for p in FeatureSettings.of(bundle).planes
    )
    changed = with_settings(bundle.manifest, scales=renamed, planes=planes)
    with pytest.raises(BundleError, match="lacks outputs other"):
        EdgeEncoder(Bundle.create(tmp_path / "renamed", changed, files))


def advised(folder: Path, state: int) -> Bundle:
    """The tiny bundle, with a default state."""
    make_tiny_bundle(folder)
    (folder / ADVICE_NAME).write_bytes(Advice(default_state=state).to_bytes())
    return Bundle.load(folder)


def test_what_asks_for_nothing_gets_the_bundle_s_default_state(
    tmp_path: Path, photo: np.ndarray
) -> None:
    encoder = EdgeEncoder(advised(tmp_path, 2))
    plain = encoder.encode(photo)
    assert plain.state == 2
    assert plain.to_bytes() == encoder.encode(photo, state=2).to_bytes()
    sent, kept = encoder.encode_kept(photo, RateTarget())
    assert (sent.state, kept.state) == (2, 0)


def test_whatever_is_asked_for_wins_over_the_default_state(
    tmp_path: Path, photo: np.ndarray
) -> None:
    encoder = EdgeEncoder(advised(tmp_path, 2))
    assert encoder.encode(photo, state=0).state == 0
    assert encoder.encode(photo, state=4).state == 4
    finest = encoder.encode(photo, state=0)
    assert encoder.encode(photo, max_bytes=finest.file_bytes).to_bytes() == finest.to_bytes()
    assert encoder.encode(photo, bits_per_pixel=24.0).state == 0


def test_regions_are_finer_than_the_default_state(tmp_path: Path, photo: np.ndarray) -> None:
    encoder = EdgeEncoder(advised(tmp_path, 3))
    plain = encoder.encode(photo)
    with_face = encoder.encode(photo, regions=(Region(0.2, 0.2, 0.6, 0.6),))
    assert with_face.state == 0
    assert plain.file_bytes < with_face.file_bytes < encoder.encode(photo, state=0).file_bytes
