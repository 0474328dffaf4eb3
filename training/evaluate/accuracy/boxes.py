"""Detection: COCO's average precision against annotated boxes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from codec.settings import TailSpec
from codec.tails.outputs import detections
from shared.preprocess import Placement
from shared.results import Detection
from training.evaluate.accuracy.base import Figures, Output
from training.evaluate.accuracy.coco_figures import coco_figures
from training.evaluate.average_precision import AveragePrecision, PhotoMatches, match_photos
from training.evaluate.bootstrap import Floats
from training.evaluate.photos import EvaluationError, EvaluationPhoto

KEPT_SCORE = 0.05
"""Detections below take no part in the average precision."""
_CELLS = 8_000_000
"""Resamples times detections that are weighed together, so that memory has a bound."""


class Boxes:
    """Outputs are rows [COCO category, score, x, y, width, height], at most 100 a photo."""

    name = "boxes"
    version = "1"
    headline = "ap"
    label = "AP, IoU 0.50 to 0.95"

    def of_tail(
        self,
        outputs: Mapping[str, npt.NDArray[np.float32]],
        spec: TailSpec,
        placement: Placement,
        photo: EvaluationPhoto,
    ) -> Output:
        """Thresholded at 0.05, suppressed at 0.6 within a class, in the photo's pixels."""
        found = detections(outputs["boxes"], outputs["scores"], spec, placement, KEPT_SCORE)
        return rows(found)

    def judge(self, photos: Sequence[EvaluationPhoto], reference: Sequence[Output]) -> BoxJudge:
        """Raises EvaluationError ``no_annotations``."""
        return BoxJudge(photos)


class BoxJudge:
    """Against the photos' annotated boxes."""

    def __init__(self, photos: Sequence[EvaluationPhoto]) -> None:
        """Raises EvaluationError ``no_annotations`` when a photo has none."""
        self._truths = []
        for photo in photos:
            if photo.truth is None:
                raise EvaluationError("no_annotations", f"{photo.name} has no annotated boxes")
            self._truths.append(photo.truth)

    def figures(self, outputs: Sequence[Output]) -> Figures:
        """``ap``, ``ap50``, ``ap75``, ``ap_small``, ``ap_medium``, ``ap_large``."""
        return coco_figures(self._truths, outputs)

    def matched(self, outputs: Sequence[Output]) -> list[PhotoMatches]:
        """pycocotools' matches."""
        return match_photos(self._truths, outputs)

    def resampled(self, matched: Sequence[PhotoMatches], weights: Floats) -> Floats:
        """AP, by our own accumulation of the matches, for many weightings at once."""
        precision = AveragePrecision.of(matched)
        found = sum(len(one.scores) for photo in matched for one in photo if one is not None)
        step = max(8, _CELLS // max(1, found))
        parts = range(0, len(weights), step)
        return np.concatenate([precision(weights[k : k + step]) for k in parts])


def rows(found: Iterable[Detection], across: float = 1.0, down: float = 1.0) -> list[list[float]]:
    """Detections as rows; across, down: pixels of the photo per pixel that boxes are in."""
    return [
        [
            one.class_id,
            round(one.score, 5),
            round(one.box.x_min * across, 2),
            round(one.box.y_min * down, 2),
            round(one.box.width * across, 2),
            round(one.box.height * down, 2),
        ]
        for one in found
    ]
