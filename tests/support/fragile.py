"""A task that worker processes import: pictures of some widths are too much for it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from shared.results import ModelInfo, TaskResult

KILLS, SEGFAULTS, EXITS, SLOW = 401, 402, 403, 404
"""Widths, in pixels, of pictures that do that to their worker."""

SLOW_S = 1.0


class Fragile:
    """Finds nothing; says in its model's version which process ran it."""

    def __init__(self) -> None:
        self.models = [ModelInfo(name="fragile", version=str(os.getpid()), licence="Apache-2.0")]

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[TaskResult]:
        for image in images:
            match image.shape[1]:
                case 401:
                    os.kill(os.getpid(), signal.SIGKILL)
                case 402:
                    print("about to fall", file=sys.stderr, flush=True)
                    ctypes.string_at(0)
                case 403:
                    os._exit(7)
                case 404:
                    time.sleep(SLOW_S)
        return [TaskResult(task="fragile", model=self.models, detections=[]) for _ in images]


def open_fragile() -> Fragile:
    """As a server's ``more_tasks`` want it."""
    return Fragile()
