"""People, one mask each: boxes by the detector, then the mask of the person in a crop of each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cloud_server.tasks.base import Image, expect_image, model_info
from cloud_server.tasks.detection import Ssd
from cloud_server.tasks.geometry import SquareCrop, paste_mask
from cloud_server.tasks.litert import LiteModel
from shared.errors import TaskError
from shared.results import (
    Detection,
    Instance,
    ModelInfo,
    Stopwatch,
    TaskResult,
    check_threshold,
    encode_mask,
)
from shared.weights import ModelStore

DEFAULT_THRESHOLD = 0.5

_WEIGHTS = "person-mask"
_INPUT_SIDE = 256
_CROP_SCALE = 1.25  # of the box's long side
_MASK_SHAPE = (1, _INPUT_SIDE, _INPUT_SIDE, 1)


class SegmentationTask:
    """Instances of class ``person``. A person whose mask is empty is left out."""

    name = "segmentation"

    def __init__(
        self, store: ModelStore, *, score_threshold: float | None = None, threads: int = 1
    ) -> None:
        self._threshold = check_threshold(
            DEFAULT_THRESHOLD if score_threshold is None else score_threshold
        )
        self._ssd = Ssd(store)
        self._mask = LiteModel(store.path(_WEIGHTS), threads=threads)
        self._info = [self._ssd.info, model_info(store, _WEIGHTS)]

    @property
    def models(self) -> list[ModelInfo]:
        return list(self._info)

    def run(self, images: Sequence[Image]) -> list[TaskResult]:
        return [self._one(expect_image(image)) for image in images]

    def _one(self, image: Image) -> TaskResult:
        watch = Stopwatch()
        people = [
            found
            for found in self._ssd.find(image, self._threshold, watch)
            if found.class_name == "person"
        ]
        instances = [self._segment(image, person, watch) for person in people]
        return TaskResult(
            task=self.name,
            model=self.models,
            instances=[instance for instance in instances if instance is not None],
            milliseconds=watch.milliseconds,
        )

    def _segment(self, image: Image, person: Detection, watch: Stopwatch) -> Instance | None:
        box = person.box
        with watch.stage("preprocess"):
            crop = SquareCrop(
                x=(box.x_min + box.x_max) / 2,
                y=(box.y_min + box.y_max) / 2,
                side=_CROP_SCALE * max(box.width, box.height),
            )
            pixels = crop.cut(image, _INPUT_SIDE).astype(np.float32) / 255
        with watch.stage("inference"):
            outputs = self._mask.run(pixels)
        with watch.stage("postprocess"):
            logits = [out for out in outputs.values() if out.shape == _MASK_SHAPE]
            if len(logits) != 1:
                raise TaskError("inference_failed", f"{_WEIGHTS} gave no single mask")
            height, width = image.shape[:2]
            mask = paste_mask(logits[0][0, :, :, 0], crop, box, width, height)
            if not mask.any():
                return None
            return Instance(
                box=box,
                class_id=person.class_id,
                class_name=person.class_name,
                score=person.score,
                mask=encode_mask(mask),
            )
