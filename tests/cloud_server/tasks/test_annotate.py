"""Annotated pictures: marks where they belong, labels inside the picture, at any size."""

from __future__ import annotations

import numpy as np
import pytest

from cloud_server.tasks.annotate import MIN_LONG_SIDE, annotate
from shared.results import (
    Box,
    Classification,
    Detection,
    Face,
    Instance,
    ModelInfo,
    Region,
    TaskResult,
    encode_mask,
)

MODEL = [ModelInfo(name="m", version="1", licence="MIT")]


def detection_of(x0, y0, x1, y1, name="person"):
    box = Box(x_min=x0, y_min=y0, x_max=x1, y_max=y1)
    found = Detection(box=box, class_id=1, class_name=name, score=0.875)
    return TaskResult(task="detection", model=MODEL, detections=[found])


@pytest.mark.parametrize("size", [(600, 800), (480, 480), (3000, 2000)])
def test_a_picture_keeps_its_size_and_the_original_its_pixels(size):
    picture = np.full((*size, 3), 90, np.uint8)
    result = annotate(picture, [detection_of(50, 60, 300, 320)])
    assert result.shape == picture.shape
    assert (picture == 90).all()
    assert (result[150:300, 60:280] == 90).all()  # inside the box, below its label
    assert (result[200:300, 50:52] != 90).any(axis=-1).all()  # its left side
    assert (result[60:62, 150:290] != 90).any(axis=-1).all()  # its upper side


@pytest.mark.parametrize("size", [(16, 16), (100, 40), (33, 479)])
def test_a_small_picture_is_enlarged_by_a_whole_factor(size):
    result = annotate(np.zeros((*size, 3), np.uint8), [detection_of(2, 2, 12, 12)])
    factor = result.shape[0] // size[0]
    assert result.shape[:2] == (factor * size[0], factor * size[1])
    assert max(result.shape) >= MIN_LONG_SIDE


@pytest.mark.parametrize(
    "place", [(0, 0, 20, 20), (780, 580, 800, 600), (0, 590, 5, 600), (790, 0, 800, 600)]
)
def test_labels_stay_inside_the_picture(place):
    blank = np.zeros((600, 800, 3), np.uint8)
    plain = annotate(blank, [detection_of(300, 300, 320, 320, "traffic light")])
    moved = annotate(blank, [detection_of(*place, "traffic light")])
    # The same label has about as many coloured pixels wherever it is.
    count = [(picture.any(axis=-1)).sum() for picture in (plain, moved)]
    assert count[1] > 0.8 * count[0]


def test_masks_tint_what_they_cover_and_nothing_else():
    mask = np.zeros((500, 500), np.uint8)
    mask[200:300, 100:400] = 1
    box = Box(x_min=100, y_min=200, x_max=400, y_max=300)
    one = Instance(box=box, class_id=1, class_name="cat", score=1, mask=encode_mask(mask))
    result = TaskResult(task="segmentation", model=MODEL, instances=[one])
    picture = annotate(np.full((500, 500, 3), 100, np.uint8), [result])
    assert (picture[230:280, 150:350] != 100).any(axis=-1).all()
    assert (picture[320:] == 100).all()


def test_regions_are_tinted_and_named_inside():
    mask = np.zeros((500, 500), np.uint8)
    mask[:, 250:] = 1
    found = [
        Region(class_id=n, class_name=name, share=0.5, mask=encode_mask(part))
        for n, (name, part) in enumerate({"road": mask, "sky": 1 - mask}.items())
    ]
    result = TaskResult(task="parts", model=MODEL, regions=found)
    picture = annotate(np.full((500, 500, 3), 100, np.uint8), [result])
    assert (picture != 100).any(axis=-1).all()
    left, right = picture[400, 100], picture[400, 400]
    assert (left != right).any()
    assert (picture[300:, :240] == left).all()


@pytest.mark.parametrize("size", [(500, 700), (16, 16)])
def test_classes_are_listed_in_a_corner(size):
    found = [
        Classification(class_id=n, class_name=f"class {n}", score=0.3 - n / 20) for n in range(5)
    ]
    result = TaskResult(task="classification", model=MODEL, classes=found)
    picture = annotate(np.zeros((*size, 3), np.uint8), [result])
    marked = picture.any(axis=-1)
    assert marked[:100, :60].mean() > 0.5
    assert not marked[300:].any()
    assert not marked[:, picture.shape[1] // 2 :].any()


def test_landmarks_are_marked_where_they_are():
    points = tuple((float(x), 250.0, 0.0) for x in range(200, 300, 10))
    face = Face(box=Box(x_min=180, y_min=200, x_max=320, y_max=300), score=0.9, landmarks=points)
    result = TaskResult(task="landmarks", model=MODEL, faces=[face])
    picture = annotate(np.zeros((600, 600, 3), np.uint8), [result])
    assert all(picture[250, int(x)].any() for x, _, _ in points)
    assert not picture[250, 350:].any()
