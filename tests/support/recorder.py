"""Tasks that note the pictures they are given, by their width, or say the number in each."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from shared.results import Box, Detection, ModelInfo, TaskResult
from tests.support.predicted import shown_in


class Recorder:
    """``widths``: of every picture that was processed, in order; ``numbers``: what is read off."""

    name = "record"

    def __init__(self, read: Callable[[NDArray[np.uint8]], int] = lambda picture: 0) -> None:
        self.models = [ModelInfo(name="recorder", version="1", licence="Apache-2.0")]
        self.widths: list[int] = []
        self.numbers: list[int] = []
        self._read = read
        self._lock = threading.Lock()

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[TaskResult]:
        with self._lock:
            self.widths += [image.shape[1] for image in images]
            self.numbers += map(self._read, images)
        return [TaskResult(task="record", model=self.models, detections=[]) for _ in images]


class Reader:
    """Finds one thing in each picture, whose class is the number that it shows."""

    def __init__(self) -> None:
        self.models = [ModelInfo(name="reader", version="1", licence="Apache-2.0")]

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[TaskResult]:
        box = Box(x_min=0, y_min=56, x_max=128, y_max=64)
        found = [
            Detection(box=box, class_id=shown_in(image), class_name="number", score=1.0)
            for image in images
        ]
        return [TaskResult(task="record", model=self.models, detections=[one]) for one in found]


def open_reader() -> Reader:
    """As a server's ``more_tasks`` want it."""
    return Reader()
