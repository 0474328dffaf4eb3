"""Fitting the PSNR model on real reconstructions: its margin keeps its promise on other photos."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from codec.markov_palette.coding import DistortionTable, MarkovPaletteCodec
from codec.markov_palette.reconstruct import PictureReconstructor
from codec.markov_palette.train.bundle import fit_psnr_model
from codec.onnx import FeatureExtractor
from codec.settings import FeatureSettings, with_settings
from shared.bundle import Bundle
from shared.preprocess import block_detail
from tests.support.tiny_bundle import make_tiny_bundle

SHARE = 0.8


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_tiny_bundle(tmp_path_factory.mktemp("tiny"))


def crops(photos: dict[str, np.ndarray], count: int, seed: int) -> Iterator[np.ndarray]:
    rng = np.random.default_rng(seed)
    names = sorted(photos)
    for _ in range(count):
        photo = photos[names[int(rng.integers(len(names)))]]
        top, left = (int(rng.integers(side - 64)) for side in photo.shape[:2])
        yield np.ascontiguousarray(photo[top : top + 64, left : left + 64])


def test_the_stated_share_of_photos_is_as_good_as_expected(
    bundle: Bundle, photos: dict[str, np.ndarray]
) -> None:
    codec = MarkovPaletteCodec(bundle)
    extract, worker = FeatureExtractor(bundle), PictureReconstructor.from_bundle(bundle)
    seen: list[int] = []
    model = fit_psnr_model(
        codec, worker, extract, crops(photos, 120, 1), share=SHARE, progress=seen.append
    )
    assert seen == list(range(1, 121))
    assert len(model.rows) == 5
    assert set(model.rows[0].distortion) == {"semantic", "texture"}
    good = []
    for photo in crops(photos, 120, 2):
        features = extract(photo)
        indices = codec.chains[0].quantise(features)
        table, detail = (
            DistortionTable(codec.chains[0].palette, features, indices),
            block_detail(photo),
        )
        for state, row in enumerate(model.rows):
            latents = codec.decode(codec.chains[0].code(indices, 64, 64, state=state))
            picture = worker.reconstruct([latents])[0].astype(float)
            psnr = -10 * np.log10(np.square((picture - photo) / 255).mean())
            expected = row.psnr(table.at(state), detail)
            good.append(psnr >= expected)
    # Five states of each photo stand or fall together: the share is known to about a tenth.
    assert SHARE - 0.1 < np.mean(good) < 0.98


def test_a_handful_of_photos_is_too_few(bundle: Bundle, photos: dict[str, np.ndarray]) -> None:
    codec = MarkovPaletteCodec(bundle)
    worker = PictureReconstructor.from_bundle(bundle)
    with pytest.raises(ValueError, match="too few"):
        fit_psnr_model(codec, worker, FeatureExtractor(bundle), crops(photos, 5, 1))


def test_the_bundle_takes_the_model(
    bundle: Bundle, photos: dict[str, np.ndarray], tmp_path: Path
) -> None:
    codec = MarkovPaletteCodec(bundle)
    model = fit_psnr_model(
        codec,
        PictureReconstructor.from_bundle(bundle),
        FeatureExtractor(bundle),
        crops(photos, 30, 3),
    )
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    manifest = with_settings(bundle.manifest, psnr_model=model)
    made = Bundle.create(tmp_path, manifest, files)
    assert FeatureSettings.of(Bundle.load(tmp_path)).psnr_model == model
    assert made.id != bundle.id
