"""COCO's twelve figures' first six, by faster-coco-eval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from training.evaluate.average_precision import Detections
from training.evaluate.photos import EvaluationError, Truth

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
"""AP at IoU 0.50 to 0.95, at 0.50, at 0.75; and of objects below 32 x 32 pixels, to 96 x 96, above.
All 0 to 1."""


def coco_figures(
    truths: Sequence[Sequence[Truth]], detections: Sequence[Detections]
) -> dict[str, float | None]:
    """The figures of a set of photos, a list each; None where there is no such object.

    Boxes are in pixels of the annotated photos: small and large are said of those. Raises
    EvaluationError ``missing_library`` without the extra `train`.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise EvaluationError(
            "missing_library", "faster-coco-eval is not installed: pip install 'featherwire[train]'"
        ) from None
    document = _document(truths)
    if not document["annotations"]:
        return dict.fromkeys(NAMES)
    found = [
        {"image_id": photo, "category_id": int(category), "score": score, "bbox": box}
        for photo, rows in enumerate(detections)
        for category, score, *box in rows
    ]
    truth = COCO(document)
    results = truth.loadRes(found) if found else COCO({**document, "annotations": []})
    evaluation = COCOeval_faster(truth, results, "bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    values = [float(value) for value in evaluation.stats[: len(NAMES)]]
    return {name: None if v < 0 else v for name, v in zip(NAMES, values, strict=True)}


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
                "id": number,
                "image_id": photo,
                "category_id": one.category,
                "bbox": list(one.box),
                "area": one.box[2] * one.box[3] if one.area is None else one.area,
                "iscrowd": int(one.crowd),
            }
            for number, (photo, one) in enumerate(objects, 1)
        ],
    }
