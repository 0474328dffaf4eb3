"""The bundle that comes with Featherwire: whole, decodable, and worth having."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from cloud_server.engine.files import BitstreamDecoder
from codec.markov_palette.coding import MarkovPaletteCodec
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.weights import ModelStore
from tests.golden.make_default import FOLDER, STATES_PICTURED
from tests.support.contract import index_hash
from training.evaluate.judges.metrics import PixelDistances

GOLDEN = json.loads((FOLDER / "golden.json").read_text())


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle.load()


@pytest.fixture(scope="module")
def golden() -> Bitstream:
    return Bitstream.from_bytes((FOLDER / "coffee.fwf").read_bytes())


def test_every_file_is_what_the_manifest_says(bundle: Bundle) -> None:
    bundle.verify()
    assert bundle.id == GOLDEN["bundle_id"]
    sizes = sum(entry.size_bytes for entry in bundle.manifest.files.values())
    assert sizes < 25_000_000
    assert "MODEL_CARD.md" in bundle.manifest.files


def test_the_golden_file_decodes_to_the_same_indices(bundle: Bundle, golden: Bitstream) -> None:
    codec = MarkovPaletteCodec(bundle)
    for state, expected in GOLDEN["indices_sha256"].items():
        assert index_hash(codec.decode(golden.truncate(int(state))).indices) == expected


@pytest.mark.parametrize("state", STATES_PICTURED)
def test_the_golden_pictures_look_the_same(bundle: Bundle, golden: Bitstream, state: int) -> None:
    """Pixels are floating point work and may differ a little between machines."""
    picture = Image.fromarray(BitstreamDecoder(bundle).picture(golden.truncate(state)))
    reduced = np.asarray(picture.resize((150, 100), Image.Resampling.BOX)).astype(int)
    expected = np.asarray(Image.open(FOLDER / f"coffee-state{state}.png")).astype(int)
    assert np.abs(reduced - expected).max() <= 3


def test_finer_states_cost_more_and_look_better(
    bundle: Bundle, photos: dict[str, np.ndarray]
) -> None:
    encoder, decoder = EdgeEncoder(bundle, precision="fp32"), BitstreamDecoder(bundle)
    likeness: dict[int, list[float]] = {}
    for name in ("astronaut", "chelsea", "coffee"):
        whole = encoder.encode(photos[name], state=0)
        sizes = list(whole.cumulative_bytes().values())
        assert sizes == sorted(sizes)
        distances = PixelDistances().open(photos[name])
        for state in (0, 3, 5, 8):
            figures = distances(decoder.picture(whole.truncate(state)))
            likeness.setdefault(state, []).append(figures["ms_ssim"])
    means = [float(np.mean(values)) for values in likeness.values()]
    assert means == sorted(means, reverse=True)


def test_flat_pictures_stay_flat_and_keep_their_colour(bundle: Bundle) -> None:
    """No dot grid, no seams at padding, no shift of colour beyond a first bundle's share."""
    encoder, decoder = EdgeEncoder(bundle, precision="fp32"), BitstreamDecoder(bundle)
    for colour in ((128, 128, 128), (40, 60, 90), (220, 200, 180)):
        image = np.full((100, 150, 3), colour, np.uint8)
        picture = decoder.picture(encoder.encode(image)).astype(float)
        assert np.abs(picture.mean((0, 1)) - colour).max() < 20
        assert picture.std((0, 1)).max() < 12


def test_the_largest_picture_goes_through_in_tiles(bundle: Bundle) -> None:
    """8192 pixels wide, few high: more tiles than one, both ways."""
    ramp = np.linspace(0, 255, 8192).astype(np.uint8)
    image = np.repeat(np.repeat(ramp[None, :, None], 33, 0), 3, 2)
    bitstream = EdgeEncoder(bundle, precision="fp32").encode(image, state=3)
    picture = BitstreamDecoder(bundle).picture(bitstream)
    assert picture.shape == image.shape
    assert float(np.abs(picture.astype(float) - image).mean()) < 15


def test_the_advice_is_for_the_detector_that_is_run(bundle: Bundle) -> None:
    weights = ModelStore().entry("ssd-mobilenetv3-coco").sha256
    for task in ("detection", "segmentation"):
        found = bundle.advice.thresholds(task, [weights])
        assert found is not None
        assert min(found.others) >= 0.5
    assert bundle.advice.default_state == 3
    detect = Bundle.load("detect")
    assert detect.advice.thresholds("detection", [detect.manifest.files["tail.onnx"].sha256])
