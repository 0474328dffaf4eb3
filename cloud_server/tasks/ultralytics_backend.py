"""Detection and segmentation by Ultralytics' YOLO models (AGPL-3.0, an extra of its own)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from cloud_server.tasks.base import Image, TaskOptions, expect_image
from codec.libraries import import_yolo, load_yolo
from shared.errors import TaskError
from shared.results import (
    Box,
    Detection,
    Instance,
    ModelInfo,
    TaskResult,
    check_threshold,
    clip_boxes,
    encode_mask,
)
from shared.weights import ModelStore
from shared.weights.download import file_sha256
from shared.weights.ultralytics_assets import LICENCE, get_yolo

# The threshold that Ultralytics itself predicts with.
DEFAULT_THRESHOLD = 0.25

_YOLO_TASK = {"detection": "detect", "segmentation": "segment"}
_STAGES = ("preprocess", "inference", "postprocess")


class UltralyticsTask:
    """A YOLO model as a task. ``class_id`` and names are the model's own (COCO's 80 from 0)."""

    def __init__(
        self,
        name: Literal["detection", "segmentation"],
        store: ModelStore,
        model: str,
        options: TaskOptions,
    ) -> None:
        threshold = options.score_threshold
        self._threshold = check_threshold(DEFAULT_THRESHOLD if threshold is None else threshold)
        self.name = name
        self._device = options.device
        yolo, version = import_yolo()
        path = get_yolo(store, model)
        self._model = load_yolo(yolo, path, _YOLO_TASK[name])
        self._info = ModelInfo(
            name=path.name,
            version=f"ultralytics {version}",
            sha256=file_sha256(path),
            licence=LICENCE,
        )

    @property
    def models(self) -> list[ModelInfo]:
        return [self._info]

    def run(self, images: Sequence[Image]) -> list[TaskResult]:
        return [self._one(expect_image(image)) for image in images]

    def _one(self, image: Image) -> TaskResult:
        try:
            # Ultralytics takes arrays as BGR.
            (found,) = self._model.predict(
                np.ascontiguousarray(image[:, :, ::-1]),
                conf=self._threshold,
                device=self._device,
                retina_masks=True,  # masks at the picture's own size
                verbose=False,
                save=False,
            )
        except (RuntimeError, ValueError, TypeError, AttributeError) as error:
            raise TaskError("inference_failed", f"Ultralytics failed: {error}") from error
        objects = self._detections(found, image)
        values: dict[str, Any] = {"detections": objects}
        if self.name == "segmentation":
            values = {"instances": self._instances(found, objects, image)}
        return TaskResult(
            task=self.name,
            model=self.models,
            milliseconds={stage: found.speed.get(stage) or 0.0 for stage in _STAGES},
            **values,
        )

    def _detections(self, found: Any, image: Image) -> list[Detection]:
        height, width = image.shape[:2]
        boxes = clip_boxes(found.boxes.xyxy.cpu().numpy().astype(np.float64), width, height)
        scores = found.boxes.conf.cpu().numpy()
        labels = found.boxes.cls.cpu().numpy().astype(int)
        return [
            Detection(
                box=Box(x_min=box[0], y_min=box[1], x_max=box[2], y_max=box[3]),
                class_id=int(label),
                class_name=str(found.names[int(label)]),
                score=min(1.0, float(score)),
            )
            for box, score, label in zip(boxes, scores, labels, strict=True)
        ]

    def _instances(self, found: Any, objects: Sequence[Detection], image: Image) -> list[Instance]:
        if not objects:
            return []
        masks = found.masks.data
        if tuple(masks.shape) != (len(objects), *image.shape[:2]):
            raise TaskError("inference_failed", f"masks of shape {tuple(masks.shape)}")
        instances = []
        for detection, mask in zip(objects, masks, strict=True):
            pixels = (mask > 0.5).cpu().numpy().astype(np.uint8)
            if pixels.any():
                instances.append(Instance(**dict(detection), mask=encode_mask(pixels)))
        return instances
