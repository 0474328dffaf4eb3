"""Tails that say what a picture shows, and what every pixel of it belongs to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from codec.latents import FeatureLatents
from codec.settings import ResizeSpec, TailSpec
from codec.tails import open_tails
from codec.tails.outputs import classifications, label_map, regions
from shared.bundle import Bundle
from shared.errors import TaskError
from shared.preprocess import Placement
from shared.results import decode_mask
from tests.support.tiny_bundle import SCALES, codec_files, tiny_manifest


def spec_of(output: str, kinds: int = 8) -> TailSpec:
    return TailSpec.model_validate(
        {
            "task": "parts" if output == "labels" else "classification",
            "output": output,
            "file": f"{output}.onnx",
            "classes": [{"id": 10 * n, "name": f"c{n}"} for n in range(kinds)],
            "model": {"name": "m", "version": "1", "licence": "MIT"},
        }
    )


def tail_of(output: str, changed: str = "Identity") -> bytes:
    """``semantic`` itself as the scores of every position, or its means as those of classes."""
    inputs = [
        helper.make_tensor_value_info(s.name, TensorProto.FLOAT, ["n", s.channels, "h", "w"])
        for s in SCALES
    ]
    shape = ["n", 8, "a", "b"] if output == "labels" else ["n", 8]
    kind, attributes = (
        (changed, {}) if output == "labels" else ("ReduceMean", {"axes": [2, 3], "keepdims": 0})
    )
    nodes = [helper.make_node(kind, ["semantic"], ["scores"], **attributes)]
    graph = helper.make_graph(
        nodes, "tail", inputs, [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def latents_of(width: int, height: int, rows: int, columns: int, seed: int = 1) -> FeatureLatents:
    rng = np.random.default_rng(seed)
    scales = {
        s.name: rng.random(
            (s.channels, rows * 16 // s.stride, columns * 16 // s.stride), np.float32
        )
        for s in SCALES
    }
    return FeatureLatents(width=width, height=height, state=0, scales=scales, indices={}, depths={})


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    tails = (spec_of("classes"), spec_of("labels"))
    files = {spec.file: tail_of(spec.output) for spec in tails}
    manifest = tiny_manifest(tails=tails, resize=ResizeSpec(width=96, height=64, fit="letterbox"))
    return Bundle.create(tmp_path / "bundle", manifest, codec_files() | files)


def test_a_tail_names_the_five_likeliest_classes(bundle: Bundle):
    latents = [latents_of(300, 200, 4, 6, seed) for seed in (1, 2)]
    found = open_tails(bundle)["classification"].run(latents)
    for one, result in zip(latents, found, strict=True):
        means = one.scales["semantic"].mean((1, 2))
        assert [c.class_id for c in result.classes] == [10 * k for k in np.argsort(-means)[:5]]
        assert result.classes[0].score == pytest.approx(float(means.max()), abs=1e-6)
        assert result.model[0].sha256 == bundle.manifest.files["classes.onnx"].sha256


def test_a_tails_regions_divide_the_picture(bundle: Bundle):
    latents = latents_of(301, 99, 4, 6)
    result = open_tails(bundle)["parts"].run([latents])[0]
    masks = np.stack([decode_mask(region.mask) for region in result.regions])
    assert masks.shape[1:] == (99, 301)
    assert (masks.sum(axis=0) == 1).all()
    shares = [region.share for region in result.regions]
    assert shares == sorted(shares, reverse=True)
    assert shares == pytest.approx(masks.mean(axis=(1, 2)))


def test_scores_that_are_no_numbers_are_an_error(tmp_path: Path):
    tail = spec_of("labels")
    files = {tail.file: tail_of("labels", "Log")}
    bundle = Bundle.create(tmp_path / "bundle", tiny_manifest(tails=(tail,)), codec_files() | files)
    latents = latents_of(64, 64, 4, 4)
    latents.scales["semantic"][0, 0, 0] = -1
    with pytest.raises(TaskError) as caught:
        open_tails(bundle)["parts"].run([latents])
    assert caught.value.reason == "inference_failed"


def test_probabilities_are_cut_to_what_they_can_be_and_equal_ones_keep_their_order():
    scores = np.array([0, 1 + 1e-6, -1e-7, 0, 0, 0, 0, 0], np.float32)
    found = classifications(scores, spec_of("classes"))
    assert [one.class_id for one in found] == [10, 0, 30, 40, 50]
    assert [one.score for one in found] == [1, 0, 0, 0, 0]
    assert len(classifications(scores[:2], spec_of("classes", 2))) == 2


@pytest.mark.parametrize("fit", ["stretch", "letterbox"])
@pytest.mark.parametrize("size", [(640, 480), (480, 640), (1000, 333), (17, 16), (97, 320)])
def test_labels_lie_where_their_objects_do(size: tuple[int, int], fit: str):
    width, height = size
    placement = Placement.of(width, height, 320, 160, fit)
    picture = np.zeros((height, width, 3), np.uint8)
    picture[height // 4 : height // 2, width // 2 :] = 255
    seen = placement.apply(picture)[..., 0].astype(np.float32)
    # Positions of 4 pixels, as a network would see them.
    grid = seen.reshape(40, 4, 80, 4).mean((1, 3))
    labels = label_map(np.stack([255 - grid, grid]), placement)
    wanted = picture[..., 0] > 0
    both = (labels == 1) & wanted
    assert both.sum() / ((labels == 1) | wanted).sum() > 0.85


def test_bands_of_a_large_picture_fit_together(monkeypatch: pytest.MonkeyPatch):
    scores = np.random.default_rng(3).standard_normal((5, 7, 9)).astype(np.float32)
    placement = Placement.of(333, 251, 96, 64, "letterbox")
    whole = label_map(scores, placement)
    monkeypatch.setattr("codec.tails.outputs._BAND_PIXELS", 1000)
    assert (label_map(scores, placement) == whole).all()
    assert set(np.unique(whole)) == set(range(5))


def test_classes_that_are_nowhere_have_no_region():
    scores = np.zeros((8, 2, 2), np.float32)
    scores[3] = 1
    found = regions(scores, spec_of("labels"), Placement.of(40, 30, 32, 32))
    assert [(region.class_id, region.share) for region in found] == [(30, 1.0)]
