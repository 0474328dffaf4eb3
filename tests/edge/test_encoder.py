"""Encoding photos: rates are met from below, sizes of every kind work, tiles leave no trace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edge_client import extractor as extractor_module
from edge_client.encoder import EdgeEncoder
from edge_client.extractor import FeatureExtractor
from shared.bundle import Bundle
from shared.codec import open_codec
from shared.errors import BudgetError, BundleError, PhotoError
from tests.support.tiny_bundle import make_codec_bundle, make_tiny_bundle


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


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ({"state": 5}, "unknown_state"),
        ({"state": -1}, "bad_target"),
        ({"bits_per_pixel": -0.1}, "bad_target"),
        ({"bits_per_pixel": float("nan")}, "bad_target"),
        ({"state": 1, "max_bytes": 100}, "two_targets"),
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
    latents = open_codec(encoder.bundle).decode(bitstream)
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

    from training.export import extractor_to_onnx
    from training.networks.extractor import Extractor, ExtractorConfig

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
        for s in bundle.manifest.scales
    )
    planes = tuple(
        p.model_copy(update={"scale": "other"}) if p.scale == "texture" else p
        for p in bundle.manifest.planes
    )
    changed = bundle.manifest.model_copy(update={"scales": renamed, "planes": planes})
    with pytest.raises(BundleError, match="lacks outputs other"):
        EdgeEncoder(Bundle.create(tmp_path / "renamed", changed, files))
