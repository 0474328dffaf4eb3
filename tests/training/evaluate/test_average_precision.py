"""Average precision: a case by hand, COCOeval's own figure, and weights as repeated photos."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from training.evaluate.judges.average_precision import (
    AveragePrecision,
    Detections,
    match_photos,
)
from training.evaluate.photos import Truth

ONE = np.ones((1, 2))
CAT, DOG = 17, 18


def precision_of(
    truths: Sequence[Sequence[Truth]], detections: Sequence[Detections]
) -> AveragePrecision:
    return AveragePrecision(match_photos(truths, detections))


def test_a_case_by_hand() -> None:
    truths = [[Truth(CAT, (0, 0, 10, 10), False), Truth(CAT, (50, 50, 10, 10), False)], []]
    right, other = [CAT, 0.9, 0, 0, 10, 10], [CAT, 0.8, 50, 50, 10, 10]
    wrong = [CAT, 0.85, 80, 80, 10, 10]
    assert precision_of(truths, [[right, other], []])(ONE)[0] == pytest.approx(1)
    # One of two found: precision 1 up to recall 0.5, that is at 51 of 101 levels.
    assert precision_of(truths, [[right], []])(ONE)[0] == pytest.approx(51 / 101)
    # A false one between them, on the other photo: precision 2/3 at the other 50 levels.
    found = precision_of(truths, [[right, other], [wrong]])(ONE)[0]
    assert found == pytest.approx((51 + 50 * 2 / 3) / 101)
    assert precision_of(truths, [[], []])(ONE)[0] == 0


def test_a_box_that_overlaps_by_three_quarters_counts_at_low_thresholds_only() -> None:
    truths = [[Truth(CAT, (0, 0, 100, 100), False)]]
    found = precision_of(truths, [[[CAT, 0.9, 0, 0, 100, 77]]])(np.ones((1, 1)))
    assert found[0] == pytest.approx(0.6)  # IoU 0.77: thresholds 0.50 to 0.75, six of ten


def test_a_crowd_is_neither_missed_nor_false() -> None:
    truths = [[Truth(CAT, (0, 0, 10, 10), False), Truth(CAT, (50, 50, 40, 40), True)]]
    in_crowd = [CAT, 0.95, 60, 60, 10, 10]
    found = precision_of(truths, [[[CAT, 0.9, 0, 0, 10, 10], in_crowd]])(np.ones((1, 1)))
    assert found[0] == pytest.approx(1)


def test_photos_without_any_object_have_no_precision() -> None:
    assert np.isnan(precision_of([[]], [[[CAT, 0.9, 0, 0, 9, 9]]])(np.ones((1, 1))))[0]


def random_case(seed: int, photos: int) -> tuple[list[list[Truth]], list[list[list[float]]]]:
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for _ in range(photos):
        boxes = rng.integers(0, 60, (rng.integers(0, 5), 4)).astype(float)
        boxes[:, 2:] += 10
        truths.append(
            [
                Truth(int(rng.choice([CAT, DOG])), tuple(box), bool(rng.random() < 0.1))
                for box in boxes.tolist()
            ]
        )
        found = []
        for one in truths[-1]:
            if rng.random() < 0.8:
                box = np.array(one.box) + rng.normal(0, 2, 4)
                found.append([one.category, float(rng.random()), *box.tolist()])
        found.append([CAT, float(rng.random()), 5.0, 5.0, 20.0, 20.0])
        detections.append(found)
    return truths, detections


@pytest.mark.parametrize("seed", range(4))
def test_it_is_cocoevals_figure(seed: int) -> None:
    truths, detections = random_case(seed, 12)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": n} for n in range(12)],
            "categories": [{"id": CAT}, {"id": DOG}],
            "annotations": [
                {"image_id": n, "category_id": one.category, "bbox": list(one.box),
                 "area": one.box[2] * one.box[3], "iscrowd": int(one.crowd), "id": 100 * n + k + 1}
                for n, objects in enumerate(truths) for k, one in enumerate(objects)
            ],
        }  # fmt: skip
        truth.createIndex()
        results = truth.loadRes(
            [
                {"image_id": n, "category_id": int(row[0]), "score": row[1], "bbox": row[2:]}
                for n, rows in enumerate(detections)
                for row in rows
            ]
        )
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    found = precision_of(truths, detections)(np.ones((1, 12)))[0]
    assert found == pytest.approx(evaluation.stats[0], abs=1e-9)


def test_a_weight_of_two_is_the_photo_twice() -> None:
    truths, detections = random_case(9, 6)
    weights = np.array([[2.0, 0, 1, 1, 3, 0]])
    drawn = [0, 0, 2, 3, 4, 4, 4]
    twice = precision_of([truths[n] for n in drawn], [detections[n] for n in drawn])
    found = precision_of(truths, detections)(weights)[0]
    assert found == pytest.approx(twice(np.ones((1, 7)))[0], abs=1e-9)
