"""A task that takes a fixed time and no processor, so that few cores can show many workers."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.results import ModelInfo, TaskResult

PAUSE_S = 0.1


class Pause:
    """Finds nothing, in ``PAUSE_S`` a picture."""

    def __init__(self) -> None:
        self.models = [ModelInfo(name="pause", version="1", licence="Apache-2.0")]

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[TaskResult]:
        time.sleep(PAUSE_S * len(images))
        return [TaskResult(task="pause", model=self.models, detections=[]) for _ in images]


def open_pause() -> Pause:
    """As ``EngineSpec.more_tasks`` wants it."""
    return Pause()
