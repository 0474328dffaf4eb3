"""`python -m benchmarks --accuracy`: results of a set lie in a folder of its name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.__main__ import main
from benchmarks.curves import bundles_for
from tests.support.feature_bundle import make_feature_bundle
from tests.support.real_store import fetched

KINDS = ("avif", "jpeg", "webp")


def refuse(constant: str) -> Any:
    raise AssertionError(f"{constant} is no JSON")


def test_an_annotated_set_is_measured_with_all_baselines(
    photos: dict[str, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched()
    (tmp_path / "few").mkdir()
    Image.fromarray(photos["chelsea"][:96, :128]).save(tmp_path / "few" / "cat.png")
    annotations = [{"image_id": 1, "category_id": 90, "bbox": [5, 5, 20, 20]}]
    document = {"images": [{"id": 1, "file_name": "cat.png"}], "annotations": annotations}
    (tmp_path / "few/instances.json").write_text(json.dumps(document))
    make_feature_bundle(tmp_path / "bundle")
    words = ["--accuracy", tmp_path / "few", "--bundle", tmp_path / "bundle", "--resamples", 4]
    words += ["--output", tmp_path / "results", "--cache", tmp_path / "cache"]
    monkeypatch.setattr("sys.argv", ["benchmarks", *map(str, words)])
    assert main() == 0
    folder = tmp_path / "results" / "few"
    found = json.loads((folder / "accuracy-detection.json").read_text(), parse_constant=refuse)
    names = {row["subject"] for row in found["points"]}
    sizes = ("", "-half", "-quarter", "-input")
    assert names >= {kind + size for kind in KINDS for size in sizes}
    assert names >= {"tiny-features", "picture"}
    # Nobody finds a toothbrush in a cat's ear: with nothing to compare there are no shares.
    assert found["uncompressed"]["value"] == 0
    assert all(row["note"] == "nothing to compare with" for row in found["shares"])
    assert (folder / "accuracy-detection.svg").is_file()


def test_packaged_bundles_are_chosen_by_what_they_can_do() -> None:
    names = [bundle.manifest.name for bundle in bundles_for("no_such_task", None)]
    assert names == ["fidelity", "picture"]
