"""What everything that finds things shares: times of its stages, thresholds, boxes that overlap."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from shared.errors import TaskError

DEFAULT_THRESHOLD: Final = 0.5
"""The score from which results show a detection."""


class Stopwatch:
    """Milliseconds per stage, added up when a stage is entered more than once."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {
            "preprocess": 0.0,
            "inference": 0.0,
            "postprocess": 0.0,
        }

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure what is done inside."""
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = 1000 * (time.perf_counter() - started)
            self.milliseconds[name] = self.milliseconds.get(name, 0.0) + elapsed


def check_threshold(value: float) -> float:
    """A score threshold. Raises TaskError(``bad_option``) outside 0..1."""
    if not 0 <= value <= 1:
        raise TaskError("bad_option", f"a score threshold lies in 0..1, not {value}")
    return value


def clip_boxes(boxes: NDArray[np.floating[Any]], width: int, height: int) -> NDArray[np.float64]:
    """[N, 4] x_min, y_min, x_max, y_max, cut to the picture."""
    limits = np.array([width, height, width, height], dtype=np.float64)
    return np.minimum(np.maximum(boxes, 0.0), limits)


def nms(
    boxes: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]], max_iou: float
) -> list[int]:
    """Greedy non-maximum suppression of [N, 4] boxes: the kept indices, best score first."""
    order = np.argsort(-scores, kind="stable")
    area = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    kept: list[int] = []
    while order.size:
        best, rest = int(order[0]), order[1:]
        kept.append(best)
        sides = np.minimum(boxes[best, 2:], boxes[rest, 2:]) - np.maximum(
            boxes[best, :2], boxes[rest, :2]
        )
        shared = np.prod(np.maximum(sides, 0.0), axis=1)
        union = area[best] + area[rest] - shared
        order = rest[shared <= max_iou * union]
    return kept
