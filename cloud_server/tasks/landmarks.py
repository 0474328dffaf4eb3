"""Faces with 468 landmarks: the detector, then MediaPipe's face mesh on each face, turned level."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cloud_server.tasks.base import Image, expect_image, model_info
from cloud_server.tasks.faces import FaceDetector, FoundFace
from cloud_server.tasks.geometry import SquareCrop
from cloud_server.tasks.litert import LiteModel, sigmoid
from shared.errors import TaskError
from shared.results import Box, Face, ModelInfo, Stopwatch, TaskResult, check_threshold
from shared.weights import ModelStore

DEFAULT_THRESHOLD = 0.6

_WEIGHTS = "face-mesh-468"
_INPUT_SIDE = 192
_CROP_SCALE = 1.5  # of the box's long side
_MIN_PRESENCE = 0.5  # the mesh's own opinion on whether its crop holds a face
_POINTS = 468


class LandmarksTask:
    """Every face has 468 landmarks (MediaPipe's numbering) and the detector's six key points."""

    name = "landmarks"

    def __init__(
        self, store: ModelStore, *, score_threshold: float | None = None, threads: int = 1
    ) -> None:
        self._threshold = check_threshold(
            DEFAULT_THRESHOLD if score_threshold is None else score_threshold
        )
        self._detector = FaceDetector(store, threads=threads)
        self._mesh = LiteModel(store.path(_WEIGHTS), threads=threads)
        self._info = [self._detector.info, model_info(store, _WEIGHTS)]

    @property
    def models(self) -> list[ModelInfo]:
        return list(self._info)

    def run(self, images: Sequence[Image]) -> list[TaskResult]:
        return [self._one(expect_image(image)) for image in images]

    def _one(self, image: Image) -> TaskResult:
        watch = Stopwatch()
        found = self._detector.find(image, self._threshold, watch)
        faces = [self._place_mesh(image, face, watch) for face in found]
        return TaskResult(
            task=self.name,
            model=self.models,
            faces=[face for face in faces if face is not None],
            milliseconds=watch.milliseconds,
        )

    def _place_mesh(self, image: Image, face: FoundFace, watch: Stopwatch) -> Face | None:
        with watch.stage("preprocess"):
            crop = _level_crop(face)
            pixels = crop.cut(image, _INPUT_SIDE).astype(np.float32) / 255
        with watch.stage("inference"):
            outputs = self._mesh.run(pixels)
        with watch.stage("postprocess"):
            values = {out.size: out.reshape(-1) for out in outputs.values()}
            if values.keys() != {1, 3 * _POINTS}:
                raise TaskError("inference_failed", f"{_WEIGHTS} has other outputs than expected")
            points = values[3 * _POINTS].reshape(_POINTS, 3).astype(np.float64) / _INPUT_SIDE
            if sigmoid(values[1])[0] < _MIN_PRESENCE or not np.isfinite(points).all():
                return None
            flat = crop.to_picture(points[:, :2])
            depth = points[:, 2:] * crop.side
            x_min, y_min, x_max, y_max = face.box
            return Face(
                box=Box(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max),
                score=min(1.0, face.score),
                key_points=tuple(map(tuple, face.key_points.tolist())),
                landmarks=tuple(map(tuple, np.concatenate([flat, depth], axis=1).tolist())),
            )


def _level_crop(face: FoundFace) -> SquareCrop:
    """The square about a face, turned so that the line from eye to eye is level."""
    x_min, y_min, x_max, y_max = face.box
    right_eye, left_eye = face.key_points[:2]
    along = left_eye - right_eye
    return SquareCrop(
        x=(x_min + x_max) / 2,
        y=(y_min + y_max) / 2,
        side=_CROP_SCALE * max(x_max - x_min, y_max - y_min),
        angle=float(np.arctan2(along[1], along[0])),
    )
