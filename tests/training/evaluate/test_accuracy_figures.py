"""COCO's figures by three programs; classes and labels by hand."""

from __future__ import annotations

import contextlib
import io

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from codec.settings import TailClass, TailModel, TailSpec
from codec.tails.outputs import classifications, regions
from shared.preprocess import Placement
from shared.results import TaskResult
from training.evaluate.judges.average_precision import (
    NAMES,
    AveragePrecision,
    coco_figures,
    match_photos,
)
from training.evaluate.judges.kinds import kind_of
from training.evaluate.photos import EvaluationError, EvaluationPhoto, Truth

PHOTOS = 14
NOTHING = np.zeros((0, 0, 3), np.uint8)


def random_case(seed: int) -> tuple[list[list[Truth]], list[list[list[float]]]]:
    """Objects of every size of four categories, some crowds; detections near and far."""
    rng = np.random.default_rng(seed)
    truths, detections = [], []
    for _ in range(PHOTOS):
        objects, rows = [], []
        for _ in range(rng.integers(0, 6)):
            x, y = rng.uniform(0, 300, 2).tolist()
            width, height = np.exp(rng.uniform(2.3, 5.5, 2)).tolist()
            category, crowd = int(rng.integers(1, 5)), bool(rng.random() < 0.1)
            area = width * height * float(rng.uniform(0.4, 1))
            objects.append(Truth(category, (x, y, width, height), crowd, area))
            for _ in range(rng.integers(0, 3)):
                box = np.array([x, y, width, height]) * rng.uniform(0.85, 1.15, 4)
                rows.append([category, float(rng.random()), *box.tolist()])
        rows.append([int(rng.integers(1, 6)), float(rng.random()), 5.0, 5.0, 40.0, 40.0])
        truths.append(objects)
        detections.append(rows)
    return truths, detections


def pycocotools_figures(truths: list[list[Truth]], found: list[list[list[float]]]) -> list[float]:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": [{"id": n} for n in range(len(truths))],
            "categories": [{"id": k} for k in sorted({t.category for ts in truths for t in ts})],
            "annotations": [
                {"image_id": n, "category_id": one.category, "bbox": list(one.box),
                 "area": one.area, "iscrowd": int(one.crowd), "id": 100 * n + k + 1}
                for n, objects in enumerate(truths) for k, one in enumerate(objects)
            ],
        }  # fmt: skip
        truth.createIndex()
        results = truth.loadRes(
            [
                {"image_id": n, "category_id": int(row[0]), "score": row[1], "bbox": row[2:]}
                for n, rows in enumerate(found)
                for row in rows
            ]
        )
        evaluation = COCOeval(truth, results, "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats[:6].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_all_six_figures_are_pycocotools_and_ap_is_the_bootstraps(seed: int) -> None:
    truths, detections = random_case(seed)
    figures = coco_figures(truths, detections)
    assert list(figures) == list(NAMES)
    wanted = pycocotools_figures(truths, detections)
    assert [figures[name] for name in NAMES] == pytest.approx(wanted, abs=1e-9)
    ours = AveragePrecision(match_photos(truths, detections))(np.ones((1, PHOTOS)))[0]
    assert figures["ap"] == pytest.approx(ours, abs=1e-9)


def test_what_is_not_there_has_no_figure_and_what_is_not_found_has_zero() -> None:
    large = [[Truth(1, (0.0, 0.0, 200.0, 200.0), False)]]
    assert coco_figures([[]], [[[1, 0.9, 0, 0, 9, 9]]]) == dict.fromkeys(NAMES)
    missed = coco_figures(large, [[]])
    assert (missed["ap"], missed["ap_large"], missed["ap_small"]) == (0, 0, None)


def test_boxes_are_weighed_in_parts_as_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    truths, detections = random_case(5)
    photos = [EvaluationPhoto(str(n), NOTHING, tuple(t)) for n, t in enumerate(truths)]
    judge = kind_of("boxes").judge(photos, [])
    weights = np.random.default_rng(0).integers(0, 3, (20, PHOTOS)).astype(float)
    matched = judge.matched(detections)
    whole = judge.resampled(matched, weights)
    monkeypatch.setattr("training.evaluate.judges.kinds._CELLS", 1)
    np.testing.assert_array_equal(judge.resampled(matched, weights), whole)


def test_boxes_need_annotations() -> None:
    with pytest.raises(EvaluationError) as caught:
        kind_of("boxes").judge([EvaluationPhoto("bare", NOTHING)], [])
    assert caught.value.reason == "no_annotations"
    with pytest.raises(EvaluationError) as caught:
        kind_of("poses")
    assert caught.value.reason == "unknown_output"


def spec(output: str, ids: list[int]) -> TailSpec:
    return TailSpec(
        task="x",
        output=output,  # type: ignore[arg-type]
        classes=tuple(TailClass(id=i, name=str(i)) for i in ids),
        model=TailModel(name="m", version="1", licence="Apache-2.0"),
    )


def result(**found: object) -> TaskResult:
    return TaskResult.model_validate({"task": "x", "model": [], **found})


def test_classes_agree_with_the_uncompressed_networks() -> None:
    kind = kind_of("classes")
    scores = np.array([0.1, 0.4, 0.05, 0.2, 0.15, 0.1, 0.0], np.float32)
    photo = EvaluationPhoto("a", NOTHING)
    classes = classifications(scores, spec("classes", list(range(10, 17))))
    output = kind.output(result(classes=classes), photo)
    assert output == [11, 13, 14, 10, 15]
    judge = kind.judge([photo] * 3, [[11, 0], [13, 1], [99, 2]])
    found = [output, output, output]
    assert judge.figures(found) == pytest.approx({"top1": 1 / 3, "top5": 2 / 3})
    weights = np.array([[1.0, 1, 1], [2, 0, 1]])
    assert judge.resampled(judge.matched(found), weights) == pytest.approx([1 / 3, 2 / 3])


def test_labels_are_compared_where_the_photo_lies_and_void_does_not_count() -> None:
    kind = kind_of("labels", [0, 4, 7])
    truth = np.zeros((20, 40), np.uint8)
    truth[:, 20:] = 4
    truth[:2] = 255
    photo = EvaluationPhoto("a", np.zeros((20, 40, 3), np.uint8), None, truth)
    # A letterbox: the photo fills rows 8 to 24 of 32; scores come at an eighth, with grey around.
    place = Placement.of(40, 20, 32, 32, "letterbox")
    scores = np.zeros((3, 4, 4), np.float32)
    scores[2] = 1  # what lies above and below the photo
    scores[:, 1:3] = 0
    scores[0, 1:3, :2] = scores[1, 1:3, 2:] = 5
    found = result(regions=regions(scores, spec("labels", [0, 4, 7]), place))
    output = kind.output(found, photo)
    assert sorted(map(tuple, output)) == [(0, 0, 18 * 20), (4, 4, 18 * 20)]
    half_wrong = [[0, 0, 100], [4, 4, 50], [4, 0, 50]]
    judge = kind.judge([photo, photo], [])
    figures = judge.figures([output, half_wrong])
    first, second = (360 + 100) / (360 + 150), (360 + 50) / (360 + 100)
    assert figures["mean_iou"] == pytest.approx((first + second) / 2)
    assert figures["pixel_accuracy"] == pytest.approx((720 + 150) / 920)
    alone = judge.resampled(judge.matched([output, half_wrong]), np.array([[1.0, 0], [0, 1]]))
    assert alone == pytest.approx([1, (100 / 150 + 50 / 100) / 2])
    with pytest.raises(EvaluationError):
        kind.output(found, EvaluationPhoto("b", NOTHING))
