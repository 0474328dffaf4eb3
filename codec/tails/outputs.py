"""What a tail's outputs mean: boxes to detections, probabilities to classes, scores to regions."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from codec.settings import TailSpec
from shared.preprocess import Placement
from shared.results import Box, Classification, Detection, Region, clip_boxes, encode_mask, nms

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


MOST_CLASSES = 5


def classifications(scores: NDArray[np.float32], spec: TailSpec) -> list[Classification]:
    """The five likeliest classes, best first.

    scores: float32 [K], probabilities; what rounding put outside 0..1 is cut.
    """
    best = np.argsort(-scores, kind="stable")[:MOST_CLASSES]
    return [
        Classification(
            class_id=spec.classes[column].id,
            class_name=spec.classes[column].name,
            score=float(np.clip(scores[column], 0, 1)),
        )
        for column in best
    ]


MOST_REGIONS = 256
"""As many as a message may carry."""
_BAND_PIXELS = 2**21


def regions(scores: NDArray[np.float32], spec: TailSpec, placement: Placement) -> list[Region]:
    """Every class that is somewhere the greatest, the largest region first.

    scores: float32 [K, h, w], a grid over the network's input. They are interpolated (bilinearly)
    at the picture's pixels before the greatest is taken, so that borders are no staircase.
    """
    labels = label_map(scores, placement)
    counts = np.bincount(labels.ravel(), minlength=len(scores))
    largest = np.argsort(-counts, kind="stable")[:MOST_REGIONS]
    return [
        Region(
            class_id=spec.classes[column].id,
            class_name=spec.classes[column].name,
            share=float(counts[column] / labels.size),
            mask=encode_mask((labels == column).astype(np.uint8)),
        )
        for column in largest
        if counts[column]
    ]


def label_map(scores: NDArray[np.float32], placement: Placement) -> NDArray[np.uint16]:
    """The greatest score's row at every pixel: uint16 [height, width] of the picture.

    scores: float32 [K, h, w], K up to 65,535. Done in bands of rows: a large picture's scores
    would not fit memory.
    """
    place = placement
    rows = _Between(place.height, place.top, place.inner_height, place.to_height, scores.shape[1])
    columns = _Between(place.width, place.left, place.inner_width, place.to_width, scores.shape[2])
    labels = np.zeros((place.height, place.width), np.uint16)
    step = max(1, _BAND_PIXELS // place.width)
    for start in range(0, place.height, step):
        stop = min(start + step, place.height)
        first, last = int(rows.before[start]), int(rows.after[stop - 1]) + 1
        best = np.full((stop - start, place.width), -np.inf, np.float32)
        before, after = rows.before[start:stop] - first, rows.after[start:stop] - first
        share = rows.share[start:stop, None]
        for number, grid in enumerate(scores[:, first:last]):
            wide = grid[:, columns.before]
            wide += (grid[:, columns.after] - wide) * columns.share
            score = wide[before]
            score += (wide[after] - score) * share
            better = score > best
            best[better] = score[better]
            labels[start:stop][better] = number
    return labels


class _Between:
    """Cells before and after each pixel's centre along an axis, and the share of the latter."""

    def __init__(self, pixels: int, start: int, inner: int, input_side: int, cells: int) -> None:
        in_input = start + (np.arange(pixels) + 0.5) / pixels * inner
        place = np.clip(in_input / input_side * cells - 0.5, 0, cells - 1)
        self.before = np.floor(place).astype(np.int64)
        self.after = np.minimum(self.before + 1, cells - 1)
        self.share = (place - self.before).astype(np.float32)
