"""``featherwire-cloud`` with a task that writes each picture's width as a line to $WIDTHS."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

import cloud_server.serve.service as service
from cloud_server import cli
from shared.results import ModelInfo, TaskResult


class FileRecorder:
    name = "record"

    def __init__(self) -> None:
        self.models = [ModelInfo(name="recorder", version="1", licence="Apache-2.0")]

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[TaskResult]:
        with open(os.environ["WIDTHS"], "a") as file:
            file.writelines(f"{image.shape[1]}\n" for image in images)
        return [TaskResult(task="record", model=self.models, detections=[]) for _ in images]


def main() -> None:
    tasks = {"record": FileRecorder}
    service.open_server = functools.partial(service.open_server, more_tasks=tasks)  # type: ignore[assignment]
    cli.main()
