"""Annotated sets in every layout that is read."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.evaluate.photos import EvaluationError, Truth, annotated_photos

ANNOTATIONS: dict[str, Any] = {
    "images": [{"id": 7, "file_name": "a.jpg"}, {"id": 9, "file_name": "b.jpg"}],
    "annotations": [
        {"image_id": 7, "category_id": 3, "bbox": [1, 2, 30, 40], "area": 600.5, "iscrowd": 0}
    ],
}
TRUTH = Truth(3, (1.0, 2.0, 30.0, 40.0), False, 600.5)


def write_photos(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (700, 64), (9, 99, 200)).save(folder / name)


@pytest.mark.parametrize("place", ["images", "images/val2017", "val2017"])
def test_cocos_folders_are_read_at_the_photos_own_size(tmp_path: Path, place: str) -> None:
    write_photos(tmp_path / place, "a.jpg", "b.jpg")
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val2017.json").write_text(json.dumps(ANNOTATIONS))
    first, second = annotated_photos(tmp_path)
    assert (first.name, first.truth, second.truth) == ("a.jpg", (TRUTH,), ())
    assert first.pixels.shape == (64, 700, 3)


def test_a_tar_with_instances_is_read(tmp_path: Path) -> None:
    write_photos(tmp_path / "set", "a.jpg")
    (tmp_path / "set/instances.json").write_text(json.dumps(ANNOTATIONS))
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "set", arcname=".")
    for source in (tmp_path / "set", tmp_path / "set.tar"):
        (photo,) = annotated_photos(source)
        assert (photo.truth, photo.pixels.shape) == ((TRUTH,), (64, 700, 3))


def test_label_pictures_are_read_by_folder(tmp_path: Path) -> None:
    for part in ("train", "val"):
        write_photos(tmp_path / "set" / part, "x.png")
        labels = np.full((64, 700), len(part), np.uint8)
        Image.fromarray(labels).save(tmp_path / "set" / part / "x_labels.png")
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        archive.add(tmp_path / "set", arcname=".")
    for source in (tmp_path / "set", tmp_path / "set.tar"):
        (photo,) = annotated_photos(source, split="val")
        assert photo.labels is not None
        assert (photo.labels == 3).all()
        with pytest.raises(EvaluationError) as caught:
            list(annotated_photos(source))
        assert caught.value.reason == "which_split"


def reason_of(source: Path, split: str | None = None) -> str:
    with pytest.raises(EvaluationError) as caught:
        list(annotated_photos(source, split=split))
    return caught.value.reason


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    assert reason_of(tmp_path / "none") == "not_found"
    write_photos(tmp_path / "bare", "a.jpg")
    assert reason_of(tmp_path / "bare") == "no_annotations"
    (photo,) = annotated_photos(tmp_path / "bare", bare=True)
    assert photo.truth is None
    folder = tmp_path / "coco/annotations"
    folder.mkdir(parents=True)
    assert reason_of(tmp_path / "coco") == "no_annotations"
    (folder / "instances_a.json").write_text(json.dumps(ANNOTATIONS))
    assert reason_of(tmp_path / "coco") == "missing_photos"
    assert reason_of(tmp_path / "coco", "b") == "which_split"
    (folder / "instances_b.json").write_text("{")
    assert reason_of(tmp_path / "coco") == "which_split"
    assert reason_of(tmp_path / "coco", "b") == "bad_annotations"
    (tmp_path / "torn.tar").write_bytes(b"no tar" * 200)
    assert reason_of(tmp_path / "torn.tar") == "bad_annotations"
