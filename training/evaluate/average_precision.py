"""COCO's average precision of detections on reconstructions, for any weighting of the photos.

pycocotools matches detections to annotated objects; what follows is its accumulation (AP at IoU
0.50 to 0.95, all areas, at most 100 detections a photo), written for many weightings at once, so
that a bootstrap over photos costs little more than one evaluation. With weights of one it is
``COCOeval``'s first figure.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from training.evaluate.bootstrap import Floats
from training.evaluate.photos import Truth

Detections = Sequence[Sequence[float]]
"""[COCO category, score, x, y, width, height] each."""

_RECALLS = np.linspace(0.0, 1.0, 101)


@dataclass(frozen=True)
class _Category:
    """Detections of one category over all photos, best first; objects to find by photo."""

    photo: npt.NDArray[np.int64]  # [detections]
    matched: npt.NDArray[np.bool_]  # [thresholds, detections]
    ignored: npt.NDArray[np.bool_]  # [thresholds, detections]
    objects: Floats  # [photos]


class AveragePrecision:
    """Detections of a set of photos, matched once."""

    def __init__(self, truths: Sequence[Sequence[Truth]], detections: Sequence[Detections]) -> None:
        """truths, detections: one list a photo, boxes in the same pixels."""
        self._categories = _match(truths, detections)

    def __call__(self, weights: Floats) -> Floats:
        """weights: [n, photos], how often each photo counts -> AP [n], 0..1; NaN without objects.

        A category counts where a photo that counts has an object of it.
        """
        total = np.zeros(len(weights))
        counted = np.zeros(len(weights))
        for category in self._categories:
            objects = weights @ category.objects
            present = objects > 0
            precision = _category_precision(category, weights, np.where(present, objects, 1.0))
            total += np.where(present, precision, 0.0)
            counted += present
        return np.divide(total, counted, out=np.full(len(weights), np.nan), where=counted > 0)


def _category_precision(category: _Category, weights: Floats, objects: Floats) -> Floats:
    """Mean over thresholds of the interpolated precision at recalls 0, 0.01 ... 1: [n]."""
    if not category.photo.size:
        return np.zeros(len(weights))
    here = weights[:, category.photo]
    sums = np.zeros(len(weights))
    for matched, ignored in zip(category.matched, category.ignored, strict=True):
        right = np.cumsum(here * (matched & ~ignored), axis=1)
        wrong = np.cumsum(here * (~matched & ~ignored), axis=1)
        precision = right / np.maximum(right + wrong, np.finfo(np.float64).eps)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # How many recall levels each detection is the first to reach.
        reached = np.searchsorted(_RECALLS, right / objects[:, None], side="right")
        levels = np.diff(reached, axis=1, prepend=0)
        sums += (envelope * levels).sum(1) / len(_RECALLS)
    return sums / len(category.matched)


def _match(truths: Sequence[Sequence[Truth]], detections: Sequence[Detections]) -> list[_Category]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    objects = [(photo, one) for photo, listed in enumerate(truths) for one in listed]
    annotations = [
        {
            "id": number,  # pycocotools takes 0 for no match
            "image_id": photo,
            "category_id": one.category,
            "bbox": list(one.box),
            "area": one.box[2] * one.box[3],
            "iscrowd": int(one.crowd),
        }
        for number, (photo, one) in enumerate(objects, 1)
    ]
    found = [
        {"image_id": photo, "category_id": int(category), "score": score, "bbox": box}
        for photo, rows in enumerate(detections)
        for category, score, *box in rows
    ]
    categories = sorted({one["category_id"] for one in annotations})
    images = [{"id": photo} for photo in range(len(truths))]
    # pycocotools says on stdout what it does.
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": category} for category in categories],
        }
        truth.createIndex()
        evaluation = COCOeval(truth, _results(truth, found), "bbox")
        evaluation.params.areaRng = [[0, 1e10]]
        evaluation.params.areaRngLbl = ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
    thresholds = len(evaluation.params.iouThrs)
    by_category = [
        evaluation.evalImgs[start : start + len(images)]
        for start in range(0, len(categories) * len(images), len(images))
    ]
    return [_gather(records, len(images), thresholds) for records in by_category]


def _results(truth, found: list[dict[str, object]]):  # type: ignore[no-untyped-def]
    """Detections as pycocotools wants them; loadRes refuses an empty list."""
    from pycocotools.coco import COCO

    if found:
        return truth.loadRes(found)
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _gather(records, photos: int, thresholds: int) -> _Category:  # type: ignore[no-untyped-def]
    """One category's records, a photo each; None where a photo has neither object nor detection."""
    objects = np.zeros(photos)
    scores = [np.empty(0)]
    numbers = [np.empty(0, np.int64)]
    matched = [np.empty((thresholds, 0), bool)]
    ignored = [np.empty((thresholds, 0), bool)]
    for photo, record in enumerate(records):
        if record is None:
            continue
        objects[photo] = np.count_nonzero(np.asarray(record["gtIgnore"]) == 0)
        count = len(record["dtScores"])
        scores.append(np.asarray(record["dtScores"], np.float64))
        numbers.append(np.full(count, photo))
        matched.append(np.asarray(record["dtMatches"]).reshape(thresholds, count) > 0)
        ignored.append(np.asarray(record["dtIgnore"]).reshape(thresholds, count) > 0)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return _Category(
        np.concatenate(numbers)[order],
        np.concatenate(matched, axis=1)[:, order],
        np.concatenate(ignored, axis=1)[:, order],
        objects,
    )
