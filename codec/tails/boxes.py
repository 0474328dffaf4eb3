"""Boxes and scores of a tail to detections: thresholds, suppression by class, pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.settings import TailSpec
from shared.preprocess import Placement
from shared.results import Box, Detection, clip_boxes, nms

MAX_IOU = 0.6
"""Overlap of two boxes of one class from which the weaker one goes."""
MAX_DETECTIONS = 100
_MAX_CANDIDATES = 400


def detections(
    boxes: NDArray[np.float32],
    scores: NDArray[np.float32],
    spec: TailSpec,
    placement: Placement,
    threshold: float,
) -> list[Detection]:
    """What scores ``threshold`` or more, best first, at most 100; boxes cut to the picture.

    boxes: float32 [B, 4], x_min, y_min, x_max, y_max as shares of the network's input. scores:
    float32 [B, K]. Suppression is greedy, within a class, at an overlap of 0.6.
    """
    found: list[tuple[float, int, NDArray[np.float64]]] = []
    in_picture = clip_boxes(placement.boxes(boxes), placement.width, placement.height)
    whole = (in_picture[:, :2] < in_picture[:, 2:]).all(axis=1)
    for column in np.flatnonzero((scores >= threshold).any(axis=0)):
        rows = np.flatnonzero((scores[:, column] >= threshold) & whole)
        rows = rows[np.argsort(-scores[rows, column], kind="stable")][:_MAX_CANDIDATES]
        of_class = scores[rows, column].astype(np.float64)
        for kept in nms(in_picture[rows], of_class, MAX_IOU):
            found.append((float(of_class[kept]), int(column), in_picture[rows[kept]]))
    found.sort(key=lambda item: -item[0])
    return [
        Detection(
            box=Box(x_min=box[0], y_min=box[1], x_max=box[2], y_max=box[3]),
            class_id=spec.classes[column].id,
            class_name=spec.classes[column].name,
            score=min(1.0, score),
        )
        for score, column, box in found[:MAX_DETECTIONS]
    ]
