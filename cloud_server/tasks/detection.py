"""SSD-MobileNetV3 for COCO's objects, run by OpenCV from the frozen TensorFlow graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from cloud_server.tasks.base import Image, expect_image, model_info
from cloud_server.tasks.geometry import shrink
from shared.errors import ModelError, TaskError
from shared.results import (
    Box,
    Detection,
    ModelInfo,
    Stopwatch,
    TaskResult,
    check_threshold,
    clip_boxes,
)
from shared.weights import ModelStore

WEIGHTS = "ssd-mobilenetv3-coco"
_INPUT_SIDE = 320
# Below this the model names furniture that is not there.
DEFAULT_THRESHOLD = 0.5


class Ssd:
    """Boxes of objects. OpenCV decodes the anchors and suppresses per class at IoU 0.6."""

    def __init__(self, store: ModelStore) -> None:
        self.info = model_info(store, WEIGHTS)
        graph = store.path(f"{WEIGHTS}-graph")
        weights = store.path(WEIGHTS)
        self.class_names = _class_names(store.path(f"{WEIGHTS}-labels"))
        try:
            self._net: Any = cv2.dnn.readNetFromTensorflow(str(weights), str(graph))
        except cv2.error as error:
            raise ModelError("damaged", f"OpenCV cannot read {WEIGHTS}: {error}") from error

    def find(self, image: Image, threshold: float, watch: Stopwatch) -> list[Detection]:
        """Objects scored ``threshold`` or more, best first, boxes cut to the picture."""
        height, width = image.shape[:2]
        try:
            with watch.stage("preprocess"):
                small = shrink(image, _INPUT_SIDE, _INPUT_SIDE)
                blob = cv2.dnn.blobFromImage(small, 1 / 127.5, mean=(127.5, 127.5, 127.5))
            with watch.stage("inference"):
                self._net.setInput(blob)
                rows = np.asarray(self._net.forward(), dtype=np.float64).reshape(-1, 7)
        except cv2.error as error:
            raise TaskError("inference_failed", f"OpenCV failed: {error}") from error
        with watch.stage("postprocess"):
            # Rows are picture, class (COCO's ids, from 1), score, and the box over the sides.
            rows = rows[(rows[:, 2] >= threshold) & np.isfinite(rows).all(axis=1)]
            rows = rows[np.argsort(-rows[:, 2], kind="stable")]
            boxes = clip_boxes(rows[:, 3:] * [width, height, width, height], width, height)
            found = []
            for (_, label, score, *_), box in zip(rows, boxes, strict=True):
                name = self.class_names[int(label)] if label < len(self.class_names) else ""
                if not name or box[0] >= box[2] or box[1] >= box[3]:
                    continue
                found.append(
                    Detection(
                        box=Box(x_min=box[0], y_min=box[1], x_max=box[2], y_max=box[3]),
                        class_id=int(label),
                        class_name=name,
                        score=min(1.0, float(score)),
                    )
                )
            return found


def _class_names(path: Path) -> list[str]:
    """Names by COCO id; 0 is the background and has none."""
    return ["", *path.read_text(encoding="utf-8").splitlines()]


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

    @property
    def class_names(self) -> dict[int, str]:
        """Names by ``class_id``."""
        return {number: name for number, name in enumerate(self._ssd.class_names) if name}

    def run(self, images: Sequence[Image]) -> list[TaskResult]:
        return [self._one(expect_image(image)) for image in images]

    def _one(self, image: Image) -> TaskResult:
        watch = Stopwatch()
        found = self._ssd.find(image, self._threshold, watch)
        return TaskResult(
            task=self.name, model=self.models, detections=found, milliseconds=watch.milliseconds
        )
