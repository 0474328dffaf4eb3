"""Metrics: nothing is at no distance, more damage is further away, missing weights are a note."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from shared.errors import TaskError
from shared.weights import ModelStore
from tests.support.real_store import fetched
from training.evaluate.judges.metrics import METRICS, WEIGHTS, open_groups
from training.evaluate.judges.vgg import VggDistances

Photos = dict[str, np.ndarray]


def group(name: str):  # type: ignore[no-untyped-def]
    if WEIGHTS[name]:
        fetched(*WEIGHTS[name])
    opened, notes = open_groups([name])
    assert notes == []
    return opened[0]


def blurred(photo: np.ndarray, radius: float) -> np.ndarray:
    return np.asarray(Image.fromarray(photo).filter(ImageFilter.GaussianBlur(radius)))


@pytest.mark.parametrize("name", ["pixels", "squeeze", "vgg"])
def test_figures_worsen_with_blur_and_are_perfect_without(name: str, photos: Photos) -> None:
    photo = np.ascontiguousarray(photos["astronaut"][100:356, 100:356])
    compare = group(name).open(photo)
    figures = [compare(photo)] + [compare(blurred(photo, radius)) for radius in (0.6, 1.5, 4)]
    perfect = {"psnr": 99.0, "ms_ssim": 1.0}
    for metric in figures[0]:
        values = [row[metric] for row in figures]
        assert values[0] == pytest.approx(perfect.get(metric, 0.0), abs=1e-5)
        assert values == sorted(values, reverse=METRICS[metric].higher_is_better)
        assert len(set(values)) == len(values)


def test_vggs_faster_arithmetic_changes_next_to_nothing(photos: Photos) -> None:
    from safetensors.torch import load_file

    store = fetched(*WEIGHTS["vgg"])
    weights = [load_file(store.path(name)) for name in WEIGHTS["vgg"]]
    photo = np.ascontiguousarray(photos["coffee"][:64, :80])
    exact, fast = (VggDistances(*weights, bf16=bf16).open(photo) for bf16 in (False, True))
    for radius in (1, 3):
        picture = blurred(photo, radius)
        expected, found = exact(picture), fast(picture)
        assert found["lpips_vgg"] == pytest.approx(expected["lpips_vgg"], rel=0.01)
        assert found["dists_vgg"] == pytest.approx(expected["dists_vgg"], rel=0.02)


def test_dists_forgives_texture_that_moved_where_lpips_and_psnr_do_not(photos: Photos) -> None:
    """What DISTS is for (Ding et al., section 1): a resampled texture is nearer than a blurred."""
    photo = np.ascontiguousarray(photos["coffee"][230:358, 0:256])
    moved, soft = np.roll(photo, 3, axis=1), blurred(photo, 3)
    compare = group("vgg").open(photo)
    pixels = group("pixels").open(photo)
    assert pixels(moved)["psnr"] < pixels(soft)["psnr"]
    assert compare(moved)["dists_vgg"] < 0.5 * compare(soft)["dists_vgg"]


def test_small_pictures_are_measured_as_far_as_it_means_anything(photos: Photos) -> None:
    tiny = np.ascontiguousarray(photos["coffee"][:24, :24])
    assert set(group("pixels").open(tiny)(tiny)) == {"psnr"}
    assert group("vgg").open(tiny)(tiny) == {}
    assert group("squeeze").open(tiny)(tiny) == {}


def test_tasks_agree_with_themselves_and_not_with_a_blank(photos: Photos) -> None:
    compare = group("tasks").open(photos["astronaut"])
    same = compare(photos["astronaut"])
    assert same["detection_f1"] == 1
    assert same["mask_iou"] == pytest.approx(1)
    assert (same["landmark_misses"], same["landmark_auc"]) == (0, pytest.approx(1))
    assert same["landmark_error"] == pytest.approx(0, abs=1e-9)
    assert any(row[0] == 1 for row in same["detections"])  # COCO's 1 is a person
    soft = compare(blurred(photos["astronaut"], 2))
    assert 0 < soft["landmark_error"] < 0.2
    assert soft["landmark_auc"] < 0.99
    assert 0.5 < soft["mask_iou"] < 1
    blank = compare(np.full_like(photos["astronaut"], 128))
    assert (blank["landmark_misses"], blank["landmark_auc"], blank["mask_iou"]) == (1, 0, 0)
    assert blank["landmark_error"] is None


def test_a_photo_without_people_has_no_figures_of_people(photos: Photos) -> None:
    figures = group("tasks").open(photos["chelsea"])(blurred(photos["chelsea"], 2))
    assert figures["mask_iou"] is None
    assert figures["landmark_auc"] is None
    assert 0 <= figures["detection_f1"] <= 1


def test_missing_weights_are_a_note_and_the_rest_is_measured(tmp_path: Path) -> None:
    opened, notes = open_groups(store=ModelStore(tmp_path))
    assert [one.name for one in opened] == ["pixels"]
    assert len(notes) == 3
    assert any("featherwire-cloud models fetch vgg16-hed" in note for note in notes)


def test_an_unknown_group_is_wrong_usage() -> None:
    with pytest.raises(TaskError) as caught:
        open_groups(["pixels", "beauty"])
    assert caught.value.reason == "bad_option"
