"""What vision tasks make of a reconstruction, beside what they make of the original."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from cloud_server.tasks import open_task
from cloud_server.tasks.detection import DEFAULT_THRESHOLD
from shared.results import Detection, Face, Instance, TaskResult, agreement
from shared.results.rle import mask_iou
from shared.weights import ModelStore
from training.evaluate.judges.tiles import find_in_tiles
from training.evaluate.measure import Figures
from training.evaluate.photos import Pixels

_KEPT_SCORE = 0.05
"""Detections below take no part in the average precision."""
_FAILURE = 0.1
"""Landmarks whose mean error exceeds this share of the eyes' distance count as failed."""


class TaskAgreement:
    """The packaged tasks on original and reconstruction.

    ``detections``: [COCO category, score, x, y, width, height] each, scored 0.05 or more, for the
    average precision; ``detections_tiled``: the same, found in tiles at twice the network's input
    size too (:mod:`training.evaluate.judges.tiles`). ``detection_f1``: of those scored 0.5 or more,
    matched one to one with the original's. ``mask_iou``: mean over the original's people, 0 for one
    who is lost; None without people. ``landmark_error``: mean distance of the 468 points over the
    distance of the outer eye corners, over faces found again. ``landmark_auc``: area under the
    share of the original's faces within an error, from 0 to 0.1, over 0.1; a lost face is never
    within. ``landmark_misses``: the share of faces lost. None without faces.
    """

    name = "tasks"
    version = "2"

    def __init__(self, store: ModelStore | None = None, *, threads: int = 1) -> None:
        """Raises ModelError when weights are missing."""
        store = store or ModelStore()
        self._detection = open_task("detection", store, score_threshold=_KEPT_SCORE)
        self._segmentation = open_task("segmentation", store, threads=threads)
        self._landmarks = open_task("landmarks", store, threads=threads)

    def open(self, original: Pixels) -> Callable[[Pixels], Figures]:
        """What compares reconstructions (uint8 [H, W, 3]) with ``original``."""
        objects = _confident(self._detection.run([original])[0])
        people = self._segmentation.run([original])[0].instances or []
        faces = self._landmarks.run([original])[0]

        def compare(decoded: Pixels) -> Figures:
            found = self._detection.run([decoded])[0]
            figures: Figures = {
                "detections": _rows(found.detections or []),
                "detections_tiled": _rows(find_in_tiles(self._find, decoded)),
                "detection_f1": agreement(objects, _confident(found)).f1,
                "mask_iou": None,
                "landmark_error": None,
                "landmark_auc": None,
                "landmark_misses": None,
            }
            if people:
                again = self._segmentation.run([decoded])[0].instances or []
                figures["mask_iou"] = _mean_mask_iou(people, again)
            if faces.faces:
                figures |= _landmark_figures(faces.faces, self._landmarks.run([decoded])[0])
            return figures

        return compare

    def _find(self, picture: Pixels) -> list[Detection]:
        return self._detection.run([picture])[0].detections or []


def _confident(result: TaskResult) -> TaskResult:
    found = [one for one in result.detections or [] if one.score >= DEFAULT_THRESHOLD]
    return result.model_copy(update={"detections": found})


def _rows(found: Sequence[Detection]) -> list[list[float]]:
    return [
        [d.class_id, round(d.score, 5)]
        + [round(v, 2) for v in (d.box.x_min, d.box.y_min, d.box.width, d.box.height)]
        for d in found
    ]


def _mean_mask_iou(people: list[Instance], again: list[Instance]) -> float:
    """Mean IoU of every person's mask with the best one left, best pairs first."""
    overlaps = np.array([[mask_iou(a.mask, b.mask) for b in again] for a in people])
    total = 0.0
    overlaps = overlaps.reshape(len(people), len(again))
    while overlaps.size and overlaps.max() > 0:
        i, j = np.unravel_index(overlaps.argmax(), overlaps.shape)
        total += float(overlaps[i, j])
        overlaps = np.delete(np.delete(overlaps, i, 0), j, 1)
    return total / len(people)


def _landmark_figures(faces: list[Face], again: TaskResult) -> Figures:
    """One face at a time, so that every face of the original weighs the same."""
    errors: list[float] = []
    for face in faces:
        alone = again.model_copy(update={"faces": [face]})
        error = agreement(alone, again).normalised_mean_error
        errors.append(np.inf if error is None else error)
    values = np.array(errors)
    within = np.isfinite(values)
    return {
        "landmark_error": float(values[within].mean()) if within.any() else None,
        "landmark_auc": float(np.clip(1 - values / _FAILURE, 0, None).mean()),
        "landmark_misses": float(1 - within.mean()),
    }
