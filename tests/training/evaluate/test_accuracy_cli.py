"""`evaluate --coco` as it is called, with the packaged detector on real photos."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from tests.support.feature_bundle import make_feature_bundle
from tests.support.real_store import fetched
from training.cli import build_app

CAT, PERSON = 17, 1


def run(*words: object) -> Result:
    return CliRunner().invoke(build_app(), ["evaluate", *map(str, words)])


@pytest.fixture(scope="module")
def folder(photos: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two photos in COCO's layout, with the boxes of a cat and of a woman."""
    fetched()
    root = tmp_path_factory.mktemp("coco")
    (root / "images").mkdir()
    (root / "annotations").mkdir()
    boxes = {"chelsea": (CAT, [0, 0, 440, 300]), "astronaut": (PERSON, [0, 0, 480, 512])}
    images, annotations = [], []
    for number, (name, (category, box)) in enumerate(boxes.items()):
        Image.fromarray(photos[name]).save(root / "images" / f"{name}.png")
        images.append({"id": number, "file_name": f"{name}.png"})
        annotations.append(
            {"image_id": number, "category_id": category, "bbox": box, "area": box[2] * box[3]}
        )
    document = {"images": images, "annotations": annotations}
    (root / "annotations/instances_two.json").write_text(json.dumps(document))
    return root


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("features")
    make_feature_bundle(path)
    return path


def test_a_feature_bundle_is_measured_beside_the_uncompressed_detector(
    folder: Path, bundle: Path, tmp_path: Path
) -> None:
    words = ("--coco", folder, "--bundle", bundle, "--no-rivals", "--resamples", 8)
    result = run(*words, "--cache", tmp_path / "cache", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert document["photos"] == 2
    # The cat and the woman are found well: their boxes overlap the annotated by most.
    assert document["uncompressed"]["value"] > 0.5
    names = {row["subject"] for row in document["points"]}
    assert names == {"uncompressed", "tiny-features", "tiny-features-unquantised"}
    whole = document["points"][0]
    assert (whole["ap_small"], whole["ap50"]) == (None, 1)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "accuracy-detection.json", "accuracy-detection.md", "accuracy-detection.svg"
    }  # fmt: skip
    again = run(*words, "--cache", tmp_path / "cache")
    assert "2 astronaut.png: 0 points" in again.output or "0 points measured" in again.output
    assert "## Bits at equal accuracy" in again.stdout


def test_wrong_usage_is_said(folder: Path, bundle: Path) -> None:
    assert run().exit_code == 2
    assert run("photo.jpg", "--coco", folder).exit_code == 2
    unknown = run("--coco", folder, "--bundle", bundle, "--task", "regions", "--no-rivals")
    assert unknown.exit_code == 1
    assert "[no_tails]" in unknown.output
    assert "[which_split]" in run("--coco", folder, "--bundle", bundle, "--split", "x").output
