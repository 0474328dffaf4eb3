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
_THRESHOLDS = 10
"""IoU 0.50, 0.55 ... 0.95, pycocotools' own."""


@dataclass(frozen=True)
class _Category:
    """Detections of one category over all photos, best first; objects to find by photo."""

    photo: npt.NDArray[np.int64]  # [detections]
    matched: npt.NDArray[np.bool_]  # [thresholds, detections]
    ignored: npt.NDArray[np.bool_]  # [thresholds, detections]
    objects: Floats  # [photos]


@dataclass(frozen=True)
class _Matches:
    """Detections of one category on one photo, and how many objects there are to find."""

    scores: Floats  # [detections]
    matched: npt.NDArray[np.bool_]  # [thresholds, detections]
    ignored: npt.NDArray[np.bool_]  # [thresholds, detections]
    objects: int


PhotoMatches = list[_Matches | None]
"""A photo's, a category each, in the order of the truths' categories; None for nothing at all."""


class AveragePrecision:
    """Detections of a set of photos, matched once."""

    def __init__(self, truths: Sequence[Sequence[Truth]], detections: Sequence[Detections]) -> None:
        """truths, detections: one list a photo, boxes in the same pixels."""
        self._gather(match_photos(truths, detections))

    @classmethod
    def of(cls, matches: Sequence[PhotoMatches]) -> AveragePrecision:
        """Of photos matched before, all against the truths of one set."""
        made = cls.__new__(cls)
        made._gather(matches)
        return made

    def _gather(self, matches: Sequence[PhotoMatches]) -> None:
        kinds = range(len(matches[0]) if matches else 0)
        self._categories = [_gather([photo[kind] for photo in matches]) for kind in kinds]

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


def match_photos(
    truths: Sequence[Sequence[Truth]], detections: Sequence[Detections]
) -> list[PhotoMatches]:
    """Every photo's detections matched to its objects; what other photos hold changes nothing.

    truths, detections: one list a photo, boxes in the same pixels.
    """
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
    photos = len(images)
    return [
        [_matches(evaluation.evalImgs[k * photos + photo]) for k in range(len(categories))]
        for photo in range(photos)
    ]


def _matches(record) -> _Matches | None:  # type: ignore[no-untyped-def]
    """pycocotools' record of a category on a photo."""
    if record is None:
        return None
    scores = np.asarray(record["dtScores"], np.float64)
    shape = (_THRESHOLDS, len(scores))
    return _Matches(
        scores,
        np.asarray(record["dtMatches"]).reshape(shape) > 0,
        np.asarray(record["dtIgnore"]).reshape(shape) > 0,
        int(np.count_nonzero(np.asarray(record["gtIgnore"]) == 0)),
    )


def _results(truth, found: list[dict[str, object]]):  # type: ignore[no-untyped-def]
    """Detections as pycocotools wants them; loadRes refuses an empty list."""
    from pycocotools.coco import COCO

    if found:
        return truth.loadRes(found)
    empty = COCO()
    empty.dataset = {**truth.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _gather(records: Sequence[_Matches | None]) -> _Category:
    """One category's, a photo each."""
    known = [(photo, record) for photo, record in enumerate(records) if record is not None]
    objects = np.zeros(len(records))
    for photo, record in known:
        objects[photo] = record.objects
    scores = np.concatenate([np.empty(0), *(record.scores for _, record in known)])
    none = np.empty((_THRESHOLDS, 0), bool)
    order = np.argsort(-scores, kind="stable")
    return _Category(
        np.repeat([p for p, _ in known], [len(r.scores) for _, r in known]).astype(np.int64)[order],
        np.concatenate([none, *(record.matched for _, record in known)], axis=1)[:, order],
        np.concatenate([none, *(record.ignored for _, record in known)], axis=1)[:, order],
        objects,
    )
