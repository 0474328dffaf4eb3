"""A tail of another kind needs no runner of its own: classes and labels through the same run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from codec.settings import TailClass, TailModel, TailSpec, with_settings
from shared.bundle import Bundle
from tests.support.feature_bundle import make_feature_bundle
from training.evaluate.photos import EvaluationPhoto
from training.evaluate.run import AccuracyPlan, evaluate_accuracy, needs_annotations

SIDE, CELL = 128, 32
CHANNELS = ("red", "green", "blue")


def bundle_of(folder: Path, output: str) -> Bundle:
    """The tiny bundle of features with a tail that says which colour there is most of.

    Of the whole picture (classes) or of every position (labels).
    """
    whole = output == "classes"
    node = (
        helper.make_node("ReduceMean", ["rgb"], ["scores"], axes=[2, 3], keepdims=0)
        if whole
        else helper.make_node("Identity", ["rgb"], ["scores"])
    )
    shape = ["n", 3] if whole else ["n", 3, "rows", "columns"]
    graph = helper.make_graph(
        [node],
        "tail",
        [helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["n", 3, "rows", "columns"])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, shape)],
    )
    opset = [helper.make_opsetid("", 17)]
    tail = helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()
    onnx.checker.check_model(tail)
    boxes = make_feature_bundle(folder / "boxes")
    files = {name: boxes.read(name) for name in boxes.manifest.files}
    spec = TailSpec(
        task="colour",
        output=output,  # type: ignore[arg-type]
        classes=tuple(TailClass(id=n, name=name) for n, name in enumerate(CHANNELS)),
        model=TailModel(name="colour", version="1", licence="Apache-2.0"),
    )
    manifest = with_settings(boxes.manifest, tails=(spec,))
    return Bundle.create(folder / output, manifest, files | {"tail.onnx": tail})


def photo(seed: int) -> EvaluationPhoto:
    """Cells of one colour each, most of one; the labels say which."""
    rng = np.random.default_rng(seed)
    shape = (SIDE // CELL, SIDE // CELL)
    cells = ((rng.choice(3, shape, p=[0.8, 0.1, 0.1]) + seed) % 3).astype(np.uint8)
    labels = np.kron(cells, np.ones((CELL, CELL), np.uint8))
    pixels = np.full((SIDE, SIDE, 3), 20, np.uint8)
    pixels[np.arange(SIDE)[:, None], np.arange(SIDE)[None], labels] = 220
    return EvaluationPhoto(str(seed), pixels, None, labels)


@pytest.mark.parametrize(("output", "headline"), [("classes", "top1"), ("labels", "mean_iou")])
def test_the_same_run_measures_every_kind(tmp_path: Path, output: str, headline: str) -> None:
    bundle = bundle_of(tmp_path, output)
    assert needs_annotations([bundle], "colour") == (output == "labels")
    plan = AccuracyPlan([bundle], "set", "colour", baselines=("jpeg", "avif-input"), resamples=10)
    document = evaluate_accuracy([photo(n) for n in range(4)], plan, lambda text: None).document
    assert document["headline"] == headline
    assert document["refining"]["grid"] == []
    assert any("own halves" in note for note in document["notes"])
    # Blocks are flat, so that only enlarging the scores loses something at edges.
    assert document["uncompressed"]["value"] > (0.99 if output == "classes" else 0.6)
    rows = {(row["subject"], row["knob"]): row for row in document["points"]}
    assert rows["tiny-features-unquantised", 16]["of_uncompressed"] == 1
    assert {state for name, state in rows if name == "tiny-features"} == set(range(4))
    # A fine JPEG changes next to nothing.
    assert rows["jpeg", 30]["of_uncompressed"] > 0.98
    assert rows["avif-input", 78][headline] == pytest.approx(
        document["uncompressed"]["value"], abs=0.02
    )
