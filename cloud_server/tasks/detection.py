"""Object detection with the built-in model."""

from __future__ import annotations

from collections.abc import Sequence

from cloud_server.tasks.base import Image, expect_image
from cloud_server.tasks.ssd import Ssd
from shared.results import ModelInfo, Stopwatch, TaskResult, check_threshold
from shared.weights import ModelStore

# Below this the model names furniture that is not there.
DEFAULT_THRESHOLD = 0.5


class DetectionTask:
    """COCO's 80 classes; ``class_id`` is COCO's category id (1..90)."""

    name = "detection"

    def __init__(self, store: ModelStore, *, score_threshold: float | None = None) -> None:
        self._threshold = check_threshold(
            DEFAULT_THRESHOLD if score_threshold is None else score_threshold
        )
        self._ssd = Ssd(store)

    @property
    def models(self) -> list[ModelInfo]:
        return [self._ssd.info]

    def run(self, images: Sequence[Image]) -> list[TaskResult]:
        return [self._one(expect_image(image)) for image in images]

    def _one(self, image: Image) -> TaskResult:
        watch = Stopwatch()
        found = self._ssd.find(image, self._threshold, watch)
        return TaskResult(
            task=self.name, model=self.models, detections=found, milliseconds=watch.milliseconds
        )
