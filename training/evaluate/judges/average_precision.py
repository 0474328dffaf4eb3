"""COCO's average precision of detections, for a set of photos and for any weighting of them.

faster-coco-eval matches detections to annotated objects and makes COCO's figures. What it does not
have is weights: :class:`AveragePrecision` accumulates its matches (AP at IoU 0.50 to 0.95, all
areas, at most 100 detections a photo) for many weightings at once, so that a bootstrap over photos
costs little more than one evaluation. With weights of one it is the library's first figure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from shared.installation import install_command
from training.evaluate.curves import Floats
from training.evaluate.photos import EvaluationError, Truth

Detections = Sequence[Sequence[float]]
"""[COCO category, score, x, y, width, height] each."""

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""AP at IoU 0.50 to 0.95, at 0.50, at 0.75; and of objects below 32 x 32 pixels, to 96 x 96, above.
All 0 to 1."""
_RECALLS = np.linspace(0.0, 1.0, 101)
_THRESHOLDS = 10
"""IoU 0.50, 0.55 ... 0.95, COCO's own."""
ALL_THRESHOLDS, AT_50 = slice(None), slice(1)


@dataclass(frozen=True)
class _Matches:
    """Detections of one category on one photo, and how many objects there are to find."""

    scores: Floats  # [detections]
    matched: npt.NDArray[np.bool_]  # [thresholds, detections]
    ignored: npt.NDArray[np.bool_]  # [thresholds, detections]
    objects: int


@dataclass(frozen=True)
class _Category:
    """Detections of one category over all photos, best first; objects to find by photo."""

    photo: npt.NDArray[np.int64]  # [detections]
    matched: npt.NDArray[np.bool_]  # [thresholds, detections]
    ignored: npt.NDArray[np.bool_]  # [thresholds, detections]
    objects: Floats  # [photos]


PhotoMatches = list[_Matches]
"""A photo's, one a category, in the order of the truths' categories."""


class AveragePrecision:
    """Detections of a set of photos, matched once."""

    def __init__(self, matches: Sequence[PhotoMatches]) -> None:
        """matches: a photo each, of :func:`match_photos`, all against the truths of one set."""
        kinds = range(len(matches[0]) if matches else 0)
        self._categories = [_gather([photo[kind] for photo in matches]) for kind in kinds]

    def __call__(self, weights: Floats) -> Floats:
        """weights: [n, photos], how often each photo counts -> AP [n], 0..1; NaN without objects.

        A category counts where a photo that counts has an object of it.
        """
        precision, objects = self.by_category(weights)
        counted = (objects > 0).sum(0)
        total = precision.sum(0)
        return np.divide(total, counted, out=np.full(len(weights), np.nan), where=counted > 0)

    def by_category(
        self, weights: Floats, thresholds: slice = ALL_THRESHOLDS
    ) -> tuple[Floats, Floats]:
        """weights: as above -> AP and objects of every category, float64 [categories, n] both.

        thresholds: of COCO's ten IoUs, ``AT_50`` for the first alone. A category's AP is 0 where
        it has no object. The categories are those of the truths, by their ids.
        """
        precision, objects = [np.zeros((0, len(weights)))], [np.zeros((0, len(weights)))]
        for category in self._categories:
            here = weights @ category.objects
            present = here > 0
            found = _category_precision(category, weights, np.where(present, here, 1.0), thresholds)
            precision.append(np.where(present, found, 0.0)[None])
            objects.append(here[None])
        return np.concatenate(precision), np.concatenate(objects)


def match_photos(
    truths: Sequence[Sequence[Truth]], detections: Sequence[Detections]
) -> list[PhotoMatches]:
    """Every photo's detections matched to its objects; what other photos hold changes nothing.

    truths, detections: one list a photo, boxes in the same pixels. Raises EvaluationError
    ``missing_library`` without the extra `train`.
    """
    evaluation = _evaluation(truths, detections, separate_eval=True)
    if evaluation is None:
        return [[] for _ in truths]
    evaluation.params.areaRng = [[0, 1e10]]
    evaluation.params.areaRngLbl = ["all"]
    evaluation.params.maxDets = [100]
    evaluation.evaluate()
    # The library keeps its matches in C++, by category and photo, and shows them as their state.
    states = [one.__getstate__() for one in evaluation._evalImgs_cpp]
    photos = len(truths)
    kinds = len(states) // photos
    return [[_matches(states[k * photos + p]) for k in range(kinds)] for p in range(photos)]


def coco_figures(
    truths: Sequence[Sequence[Truth]], detections: Sequence[Detections]
) -> dict[str, float | None]:
    """The figures of a set of photos, a list each; None where there is no such object.

    Boxes are in pixels of the annotated photos: small and large are said of those. Raises
    EvaluationError ``missing_library`` without the extra `train`.
    """
    evaluation = _evaluation(truths, detections)
    if evaluation is None:
        return dict.fromkeys(NAMES)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    values = [float(value) for value in evaluation.stats[: len(NAMES)]]
    return {name: None if v < 0 else v for name, v in zip(NAMES, values, strict=True)}


def _evaluation(
    truths: Sequence[Sequence[Truth]], detections: Sequence[Detections], **settings: bool
) -> Any:
    """The library's evaluation; None when there is no object at all."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise EvaluationError(
            "missing_library", f"faster-coco-eval is not installed: {install_command('train')}"
        ) from None
    document = _document(truths)
    if not document["annotations"]:
        return None
    found = [
        {
            "image_id": photo,
            "category_id": int(category),
            "score": float(score),
            "bbox": [float(value) for value in box],
        }
        for photo, rows in enumerate(detections)
        for category, score, *box in rows
    ]
    truth = COCO(document)
    results = truth.loadRes(found) if found else COCO({**document, "annotations": []})
    return COCOeval_faster(truth, results, "bbox", print_function=lambda *_: None, **settings)


def _document(truths: Sequence[Sequence[Truth]]) -> dict[str, Any]:
    objects = [(photo, one) for photo, listed in enumerate(truths) for one in listed]
    return {
        "images": [{"id": photo} for photo in range(len(truths))],
        "categories": [
            {"id": category, "name": str(category)}
            for category in sorted({one.category for _, one in objects})
        ],
        "annotations": [
            {
                "id": number,  # 0 stands for no match
                "image_id": photo,
                "category_id": one.category,
                "bbox": list(one.box),
                "area": one.box[2] * one.box[3] if one.area is None else one.area,
                "iscrowd": int(one.crowd),
            }
            for number, (photo, one) in enumerate(objects, 1)
        ],
    }


def _matches(state: tuple[list[Any], ...]) -> _Matches:
    """The library's record of a category on a photo."""
    matched, _, scores, objects_ignored, ignored, _ = state
    shape = (_THRESHOLDS, len(scores))
    return _Matches(
        np.asarray(scores, np.float64),
        np.asarray(matched, np.int64).reshape(shape) > 0,
        np.asarray(ignored, bool).reshape(shape),
        sum(not one for one in objects_ignored),
    )


def _gather(records: Sequence[_Matches]) -> _Category:
    """One category's, a photo each."""
    scores = np.concatenate([record.scores for record in records])
    order = np.argsort(-scores, kind="stable")
    photo = np.repeat(np.arange(len(records)), [len(record.scores) for record in records])
    return _Category(
        photo[order],
        np.concatenate([record.matched for record in records], axis=1)[:, order],
        np.concatenate([record.ignored for record in records], axis=1)[:, order],
        np.array([float(record.objects) for record in records]),
    )


def _category_precision(
    category: _Category, weights: Floats, objects: Floats, thresholds: slice
) -> Floats:
    """Mean over thresholds of the interpolated precision at recalls 0, 0.01 ... 1: [n]."""
    if not category.photo.size:
        return np.zeros(len(weights))
    here = weights[:, category.photo]
    sums = np.zeros(len(weights))
    rows = category.matched[thresholds], category.ignored[thresholds]
    for matched, ignored in zip(*rows, strict=True):
        right = np.cumsum(here * (matched & ~ignored), axis=1)
        wrong = np.cumsum(here * (~matched & ~ignored), axis=1)
        precision = right / np.maximum(right + wrong, np.finfo(np.float64).eps)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        # How many recall levels each detection is the first to reach.
        reached = np.searchsorted(_RECALLS, right / objects[:, None], side="right")
        levels = np.diff(reached, axis=1, prepend=0)
        sums += (envelope * levels).sum(1) / len(_RECALLS)
    return np.asarray(sums / len(rows[0]))
