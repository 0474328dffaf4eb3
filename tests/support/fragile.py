"""A task that worker processes import: pictures of some widths are too much for it."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shared.results import ModelInfo, TaskResult

KILLS, SEGFAULTS, EXITS, SLOW, HELD = 401, 402, 403, 404, 405
"""Widths, in pixels, of pictures that do that to their worker."""

SLOW_S = 1.0

GATE = "FEATHERWIRE_TEST_GATE"
"""Environment variable: the folder of a Gate."""


class Gate:
    """What holds pictures of the width HELD, in whatever process, until it is opened."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._closed = folder / "closed"

    def close(self) -> None:
        for file in self._folder.iterdir():
            file.unlink()
        self._closed.touch()

    def open(self) -> None:
        self._closed.unlink(missing_ok=True)

    def waiting(self) -> set[int]:
        """Ids of the processes that have come to it since it was closed."""
        return {int(file.name) for file in self._folder.iterdir() if file.name.isdigit()}

    def pass_through(self) -> None:
        """Wait, as a task does."""
        if self._closed.exists():
            (self._folder / str(os.getpid())).touch()
        while self._closed.exists():
            time.sleep(0.02)


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
                case 405:
                    Gate(Path(os.environ[GATE])).pass_through()
        return [TaskResult(task="fragile", model=self.models, detections=[]) for _ in images]


def open_fragile() -> Fragile:
    """As a server's ``more_tasks`` want it."""
    return Fragile()
