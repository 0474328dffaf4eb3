"""Agreement between two results, on cases whose answer is known by hand."""

from __future__ import annotations

import numpy as np
import pytest
from pycocotools import mask as coco
from pydantic import ValidationError

from shared.errors import TaskError
from shared.results import (
    AnalysisResult,
    Box,
    Classification,
    Detection,
    Face,
    Instance,
    ModelInfo,
    Region,
    RleMask,
    TaskResult,
    agreement,
    box_iou,
)

MODEL = [ModelInfo(name="m", version="1", licence="Apache-2.0")]


def box(x: float, y: float, width: float = 10, height: float = 10) -> Box:
    return Box(x_min=x, y_min=y, x_max=x + width, y_max=y + height)


def detections(*found: tuple[str, Box]) -> TaskResult:
    return TaskResult(
        task="detection",
        model=MODEL,
        detections=[Detection(box=b, class_id=1, class_name=n, score=0.5) for n, b in found],
    )


def instances(*masks: np.ndarray) -> TaskResult:
    found = []
    for mask in masks:
        code = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
        rle = RleMask(size=tuple(code["size"]), counts=code["counts"].decode())
        found.append(Instance(box=box(0, 0), class_id=1, class_name="person", score=1, mask=rle))
    return TaskResult(task="segmentation", model=MODEL, instances=found)


def faces(*landmarks: np.ndarray, at: float = 0) -> TaskResult:
    found = [Face(box=box(at, 0), score=0.9, landmarks=points.tolist()) for points in landmarks]
    return TaskResult(task="landmarks", model=MODEL, faces=found)


def test_a_result_agrees_with_itself():
    result = detections(("cat", box(0, 0)), ("dog", box(5, 5)))
    found = agreement(result, result)
    assert (found.f1, found.mean_iou, found.matched) == (1.0, 1.0, 2)


def test_two_empty_results_agree():
    found = agreement(detections(), detections())
    assert (found.f1, found.mean_iou) == (1.0, None)


def test_a_lost_object_and_a_false_one_cost_f1():
    reference = detections(("cat", box(0, 0)), ("cat", box(50, 0)))
    candidate = detections(("cat", box(0, 0)), ("dog", box(50, 0)), ("cat", box(90, 0)))
    assert agreement(reference, candidate).f1 == pytest.approx(2 / 5)


def test_overlap_is_reported_of_the_best_pairing():
    reference = detections(("cat", box(0, 0)))
    candidate = detections(("cat", box(2, 0)), ("cat", box(1, 0)))
    found = agreement(reference, candidate)
    assert found.mean_iou == pytest.approx(9 / 11)
    assert found.f1 == pytest.approx(2 / 3)


def test_an_overlap_below_half_is_no_match():
    found = agreement(detections(("cat", box(0, 0))), detections(("cat", box(4, 0))))
    assert (found.matched, found.f1) == (0, 0.0)


def test_masks_are_matched_by_their_pixels_not_their_boxes():
    left, right = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    left[:, :10], right[:, 10:] = True, True
    wider = np.zeros((20, 20), bool)
    wider[:, :12] = True
    assert agreement(instances(left), instances(right)).f1 == 0.0
    found = agreement(instances(left, right), instances(wider))
    assert found.mean_iou == pytest.approx(10 / 12)
    assert found.f1 == pytest.approx(2 / 3)


def test_landmark_error_is_in_units_of_the_distance_between_the_eyes():
    points = np.zeros((468, 3))
    points[33], points[263] = (10, 10, 0), (60, 10, 0)
    moved = points + np.array([3.0, 4.0, 99.0])  # depth does not count
    found = agreement(faces(points), faces(moved))
    assert found.normalised_mean_error == pytest.approx(5 / 50)
    assert found.f1 == 1.0


def test_faces_apart_do_not_match_and_have_no_error():
    points = np.ones((468, 3))
    found = agreement(faces(points), faces(points, at=100))
    assert (found.f1, found.normalised_mean_error) == (0.0, None)


def test_coinciding_eyes_give_no_error_rather_than_a_division_by_zero():
    points = np.ones((468, 3))
    assert agreement(faces(points), faces(points)).normalised_mean_error is None


def classes(*ids: int) -> TaskResult:
    found = [
        Classification(class_id=n, class_name=f"c{n}", score=0.9 - 0.1 * k)
        for k, n in enumerate(ids)
    ]
    return TaskResult(task="classification", model=MODEL, classes=found)


def regions(labels: np.ndarray) -> TaskResult:
    found = []
    for number in np.unique(labels):
        code = coco.encode(np.asfortranarray((labels == number).astype(np.uint8)))
        rle = RleMask(size=tuple(code["size"]), counts=code["counts"].decode())
        share = float((labels == number).mean())
        found.append(Region(class_id=int(number), class_name=f"c{number}", share=share, mask=rle))
    return TaskResult(task="parts", model=MODEL, regions=found)


@pytest.mark.parametrize(
    ("first", "second", "same", "f1"),
    [
        ((1, 2, 3), (1, 2, 3), True, 1.0),
        ((1, 2, 3), (2, 1, 3), False, 1.0),
        ((1, 2), (1, 3), True, 0.5),
        ((1,), (), False, 0.0),
        ((), (), True, 1.0),
    ],
)
def test_classes_agree_when_the_best_is_the_same(first, second, same, f1):
    found = agreement(classes(*first), classes(*second))
    assert (found.same_best, found.f1, found.mean_iou) == (same, f1, None)


def test_regions_are_compared_by_class_and_a_lost_class_counts_as_nothing():
    whole = np.zeros((10, 10), int)
    part = whole.copy()
    part[:, 8:] = 3
    assert agreement(regions(part), regions(part)).mean_iou == 1.0
    found = agreement(regions(part), regions(whole))
    assert found.mean_iou == pytest.approx((0.8 + 0) / 2)
    assert (found.matched, found.same_best) == (1, None)


def test_different_tasks_do_not_compare():
    with pytest.raises(TaskError, match="against") as caught:
        agreement(detections(), faces())
    assert caught.value.reason == "not_comparable"


def test_box_overlap_of_empty_and_touching_boxes_is_zero():
    assert box_iou(box(0, 0, 0, 0), box(0, 0, 0, 0)) == 0.0
    assert box_iou(box(0, 0), box(10, 0)) == 0.0


@pytest.mark.parametrize(
    "values",
    [
        {"x_min": 2, "y_min": 0, "x_max": 1, "y_max": 1},
        {"x_min": float("nan"), "y_min": 0, "x_max": 1, "y_max": 1},
        {"x_min": 0, "y_min": 0, "x_max": float("inf"), "y_max": 1},
    ],
)
def test_impossible_boxes_are_refused(values):
    with pytest.raises(ValidationError):
        Box(**values)


def test_a_result_holds_exactly_one_list():
    with pytest.raises(ValidationError):
        TaskResult(task="detection", model=MODEL)
    with pytest.raises(ValidationError):
        TaskResult(task="detection", model=MODEL, detections=[], faces=[])
    with pytest.raises(ValidationError):
        TaskResult(task="parts", model=MODEL, classes=[], regions=[])


def test_classes_come_best_first():
    worse, better = classes(1, 2).classes[::-1]
    with pytest.raises(ValidationError, match="best first"):
        TaskResult(task="classification", model=MODEL, classes=[worse, better])


def test_json_names_only_what_a_task_produces():
    analysis = AnalysisResult(
        width=64,
        height=48,
        payload_bytes=100,
        bits_per_pixel=0.26,
        tasks={"detection": detections(("cat", box(0, 0)))},
    )
    values = analysis.to_dict()
    assert set(values["tasks"]["detection"]) == {"task", "model", "detections", "milliseconds"}
    assert AnalysisResult.model_validate(values) == analysis
