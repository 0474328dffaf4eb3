"""Photos to evaluate on: never those trained on, and with their annotations in reduced pixels."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec.kit.recipe import BundleRecipe, open_recipe
from training.evaluate.photos import EvaluationError, Truth, evaluation_photos


def make_tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def jpeg(seed: int, width: int = 64, height: int = 48) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture
def recipe() -> BundleRecipe:
    return open_recipe()[1]


def test_only_people_kept_out_of_training_are_evaluated_on(
    tmp_path: Path, recipe: BundleRecipe
) -> None:
    people = [f"P{chr(65 + n)}_Smith" for n in range(9)]
    tar = make_tar(
        tmp_path / "faces.tar",
        {f"./{person}{shot}.jpg": jpeg(shot) for person in people for shot in (1, 22)},
    )
    names = [Path(photo.name).stem for photo in evaluation_photos([tar], 512, recipe)]
    assert names == ["PA_Smith1", "PA_Smith22", "PH_Smith1", "PH_Smith22"]  # each seventh of them


def test_what_is_trained_on_is_refused(tmp_path: Path, recipe: BundleRecipe) -> None:
    tar = make_tar(tmp_path / "photos-1.tar", {"a.jpg": jpeg(0)})
    with pytest.raises(EvaluationError) as caught:
        list(evaluation_photos([tar], 512, recipe))
    assert caught.value.reason == "trained_on"
    assert len(list(evaluation_photos([tar], 512))) == 1  # without a recipe nothing is known
    unpacked = tmp_path / "photos-1"
    unpacked.mkdir()
    (unpacked / "a.jpg").write_bytes(jpeg(0))
    with pytest.raises(EvaluationError):
        list(evaluation_photos([unpacked], 512, recipe))


def instances(**changes: object) -> bytes:
    document = {
        "images": [{"id": 7, "file_name": "a.jpg"}],
        "annotations": [
            {"image_id": 7, "category_id": 17, "bbox": [32, 12, 16, 24], "iscrowd": 0},
            {"image_id": 7, "category_id": 1, "bbox": [0, 0, 64, 48], "iscrowd": 1},
        ],
    }
    return json.dumps(document | changes).encode()


def test_annotations_come_with_the_photos_reduced_like_them(tmp_path: Path) -> None:
    tar = make_tar(
        tmp_path / "set.tar",
        {"./instances.json": instances(), "./a.jpg": jpeg(0), "./b.jpg": jpeg(1)},
    )
    first, second = evaluation_photos([tar], 32)
    assert first.pixels.shape == (24, 32, 3)
    assert first.truth == (
        Truth(17, (16.0, 6.0, 8.0, 12.0), False),
        Truth(1, (0.0, 0.0, 32.0, 24.0), True),
    )
    assert second.truth == ()
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "a.jpg").write_bytes(jpeg(0))
    (plain,) = evaluation_photos([tmp_path / "plain"], 512)
    assert plain.truth is None
    assert plain.pixels.shape == (48, 64, 3)  # never enlarged


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", instances(images=[]), instances(annotations=[{"image_id": 7}])],
)
def test_damaged_annotations_are_refused(tmp_path: Path, data: bytes) -> None:
    tar = make_tar(tmp_path / "set.tar", {"instances.json": data, "a.jpg": jpeg(0)})
    with pytest.raises(EvaluationError) as caught:
        list(evaluation_photos([tar], 512))
    assert caught.value.reason == "bad_annotations"


def test_unreadable_photos_are_left_out(tmp_path: Path) -> None:
    tar = make_tar(tmp_path / "set.tar", {"a.jpg": jpeg(0), "b.jpg": b"no photo"})
    assert len(list(evaluation_photos([tar], 512))) == 1
