"""Bundles of features from photo to result: chains, budgets, placement, tails, commands."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cloud_server.cli import build_app
from cloud_server.engine.files import Analyzer
from codec import open_cloud, open_edge
from codec.markov_palette.coding import MarkovPaletteCodec
from codec.tails import open_tails
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.bundle import Bundle, Manifest, packaged_bundle_of, packaged_names
from shared.errors import BitstreamError, BudgetError, BundleError, TaskError
from shared.targets import RateTarget
from tests.support.feature_bundle import make_feature_bundle, tail


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_feature_bundle(tmp_path_factory.mktemp("features"))


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """Grey, a red square at the upper left, a blue one at the lower right: 96 high, 192 wide."""
    image = np.full((96, 192, 3), 120, np.uint8)
    image[24:48, 48:96] = (230, 20, 20)
    image[72:, 144:] = (20, 20, 230)
    return image


def test_a_photo_becomes_detections_without_a_picture(features: Bundle, scene: np.ndarray) -> None:
    data = EdgeEncoder(features).encode(scene).to_bytes()
    analysed = Analyzer(bundle=features.origin).analyze(data)
    assert analysed.picture is None
    result = analysed.result
    assert (result.width, result.height, result.state) == (192, 96, 0)
    assert result.bits_per_pixel == pytest.approx(8 * len(data) / (192 * 96))
    found = {d.class_name: d for d in result.tasks["detection"].found}
    assert set(found) == {"red", "blue"}
    red = found["red"].box
    assert (red.x_min, red.y_min, red.x_max, red.y_max) == pytest.approx((48, 24, 96, 48))
    blue = found["blue"].box
    assert (blue.x_max, blue.y_max) == pytest.approx((192, 96))
    assert result.tasks["detection"].model[0].sha256 == features.manifest.files["tail.onnx"].sha256


def test_letterboxed_boxes_come_back_in_pixels(tmp_path: Path, scene: np.ndarray) -> None:
    bundle = make_feature_bundle(tmp_path, fit="letterbox")
    latents = open_cloud(bundle).decode(EdgeEncoder(bundle).encode(scene))
    (result,) = open_tails(bundle)["detection"].run([latents])
    for found in result.detections or ():
        # Two rows of the four lie on the picture: boxes are cut to it.
        assert 0 <= found.box.y_min < found.box.y_max <= 96
        assert found.box.width == pytest.approx(48)


def test_every_chain_is_a_stream_of_its_own(features: Bundle, scene: np.ndarray) -> None:
    encoder, codec = EdgeEncoder(features), MarkovPaletteCodec(features)
    assert features.manifest.starts == (1, 3)
    for state, layers in ((0, [1, 0]), (1, [1]), (2, [3, 2]), (3, [3])):
        stream = encoder.encode(scene, state=state)
        assert [layer.state for layer in stream.layers] == layers
        again = Bitstream.from_bytes(stream.to_bytes())
        latents = codec.decode(again)
        assert (latents.state, latents.scales["rgb"].shape) == (state, (3, 4, 4))
    with pytest.raises(BudgetError) as refused:
        encoder.encode(scene, state=4)
    assert refused.value.reason == "unknown_state"


def test_a_budget_takes_the_finest_chain_that_fits(features: Bundle, scene: np.ndarray) -> None:
    encoder = EdgeEncoder(features)
    sizes = {state: encoder.encode(scene, state=state).file_bytes for state in range(4)}
    assert sizes[3] < sizes[1] < sizes[0]
    for budget in range(sizes[3], sizes[0] + 1):
        stream = encoder.encode(scene, max_bytes=budget)
        assert stream.file_bytes <= budget
        if budget >= sizes[1]:
            assert stream.state <= 1
    with pytest.raises(BudgetError) as refused:
        encoder.encode(scene, max_bytes=sizes[3] - 1)
    assert refused.value.reason == "budget_too_small"


def test_layers_of_two_chains_do_not_mix(features: Bundle, scene: np.ndarray) -> None:
    encoder, codec = EdgeEncoder(features), MarkovPaletteCodec(features)
    fine, coarse = encoder.encode(scene, state=0), encoder.encode(scene, state=2)
    mixed = dataclasses.replace(coarse, state=1, layers=(*coarse.layers, fine.layers[0]))
    headless = dataclasses.replace(fine, layers=fine.layers[1:])
    for forged in (mixed, headless):
        with pytest.raises(BitstreamError) as refused:
            codec.decode(forged)
        assert refused.value.reason == "bad_state"


def test_a_shorter_stream_stays_in_its_chain(features: Bundle, scene: np.ndarray) -> None:
    encoder, codec = EdgeEncoder(features), MarkovPaletteCodec(features)
    whole = encoder.encode(scene, state=0)
    coarser = whole.truncate(1)
    assert codec.shorten(whole, coarser.file_bytes).layers == coarser.layers
    with pytest.raises(BudgetError):
        codec.shorten(whole, coarser.file_bytes - 1)


def test_what_needs_a_picture_says_so(features: Bundle, scene: np.ndarray, tmp_path: Path) -> None:
    data = EdgeEncoder(features).encode(scene).to_bytes()
    with pytest.raises(TaskError) as refused:
        Analyzer(["segmentation"], bundle=features.origin).analyze(data)
    assert refused.value.reason == "needs_picture"
    file = tmp_path / "scene.fwf"
    file.write_bytes(data)
    arguments = ["decode", str(file), "-o", str(tmp_path), "--bundle", features.origin, "--json"]
    result = CliRunner().invoke(build_app(), arguments)
    assert result.exit_code == 1
    assert json.loads(result.stdout)["failures"][0]["reason"] == "no_picture"


def test_the_command_analyses_features(features: Bundle, scene: np.ndarray, tmp_path: Path) -> None:
    file = tmp_path / "scene.fwf"
    file.write_bytes(EdgeEncoder(features).encode(scene).to_bytes())
    arguments = [
        "analyze",
        str(file),
        "--bundle",
        features.origin,
        "--tasks",
        "detection",
        "--json",
    ]
    result = CliRunner().invoke(build_app(), [*arguments, "--tasks", "detection"])
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)["results"]
    assert record["found"] == "1 red, 1 blue"
    drawn = CliRunner().invoke(build_app(), [*arguments, "--annotate", str(tmp_path / "drawn")])
    assert json.loads(drawn.stdout)["failures"][0]["reason"] == "needs_picture"


def test_tails_may_be_told_the_state(tmp_path: Path, scene: np.ndarray) -> None:
    bundle = make_feature_bundle(tmp_path, told_state=True)
    latents = open_cloud(bundle).decode(EdgeEncoder(bundle).encode(scene))
    (result,) = open_tails(bundle)["detection"].run([latents])
    assert len(result.found) == 2


@pytest.mark.parametrize("wrong", [b"", b"no onnx", "classes"])
def test_tails_that_do_not_fit_are_refused(
    features: Bundle, scene: np.ndarray, wrong: bytes | str, tmp_path: Path
) -> None:
    files = {name: features.read(name) for name in features.manifest.files}
    files["tail.onnx"] = tail(classes=3) if isinstance(wrong, str) else wrong
    bundle = Bundle.create(tmp_path / "bad", features.manifest, files)
    latents = open_cloud(features).decode(EdgeEncoder(features).encode(scene))
    with pytest.raises((BundleError, TaskError)) as refused:
        open_tails(bundle)["detection"].run([latents])
    assert refused.value.reason in ("bad_tail", "inference_failed")


@pytest.mark.parametrize(
    "change",
    [
        {"chains": ({"planes": 1, "states": 2}, {"planes": 1, "states": 1})},
        {"chains": ({"planes": 2, "states": 4}, {"planes": 1, "states": 2})},
        {"resize": {"width": 60, "height": 64}},
        {"resize": {"width": 64, "height": 64, "fit": "crop"}},
        {"chains": ()},
    ],
)
def test_manifests_that_contradict_themselves_are_refused(
    features: Bundle, change: dict[str, object]
) -> None:
    values = features.manifest.model_dump() | change
    with pytest.raises(BundleError) as refused:
        Manifest.parse(json.dumps(values).encode())
    assert refused.value.reason == "bad_manifest"


def test_files_find_the_packaged_bundle_they_were_made_with(scene: np.ndarray) -> None:
    assert "picture" in packaged_names()
    for name in packaged_names():
        bundle = Bundle.load(name)
        found = packaged_bundle_of(bundle.short_id)
        assert found is not None
        assert found.id == bundle.id
    assert packaged_bundle_of(b"12345678") is None


@pytest.mark.parametrize(
    ("name", "coarse"), [("picture", 8), ("fidelity", 7), ("detect", 6), ("classify", 4)]
)
def test_packaged_bundles_for_streams_predict(name: str, coarse: int, scene: np.ndarray) -> None:
    """A square moves, and then nothing does, at the finest state and at the coarsest that shows
    it."""
    bundle = Bundle.load(name)
    edge, cloud, manifest = open_edge(bundle), open_cloud(bundle), bundle.manifest
    moved = scene.copy()
    moved[24:48, 48:96], moved[24:48, 56:104] = 120, (230, 20, 20)
    for state in (manifest.finest_of(manifest.coarsest_state), coarse):
        target, before, sizes = RateTarget(state=state), None, []
        for frame in (scene, moved, moved):
            made = edge.encode(frame, target, reference=before)
            assert (made.reference is None) == (before is None)
            there = cloud.decode(Bitstream.from_bytes(made.to_bytes()), reference=before)
            before = edge.decode(made, reference=before)
            assert there.checksum() == before.checksum()
            sizes.append(made.file_bytes)
        key, predicted, still = sizes
        assert still < predicted < key, sizes
        assert still <= 60, "of what stands still next to nothing is said"


def test_a_photo_of_any_size_is_brought_to_the_input(features: Bundle) -> None:
    rng = np.random.default_rng(3)
    for height, width in ((16, 500), (333, 17), (64, 64)):
        image = np.asarray(
            Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)), np.uint8
        )
        latents = open_cloud(features).decode(EdgeEncoder(features).encode(image))
        assert latents.scales["rgb"].shape == (3, 4, 4)
        assert (latents.width, latents.height) == (width, height)
