"""Faces with 468 landmarks: MediaPipe's detector, then its face mesh on each face, turned level.

The dense full-range detector runs on the whole picture and on tiles of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_server.tasks.base import Image, expect_image, model_info
from cloud_server.tasks.geometry import SquareCrop
from cloud_server.tasks.litert import LiteModel, sigmoid
from shared.errors import TaskError
from shared.results import (
    Box,
    Face,
    ModelInfo,
    Stopwatch,
    TaskResult,
    check_threshold,
    clip_boxes,
    nms,
)
from shared.weights import ModelStore

_WEIGHTS = "face-detector-full-range"
_INPUT_SIDE = 192
_CELLS = 48
_MAX_IOU = 0.3
# On 113 COCO photos of 640 pixels tiles found 34 faces instead of 24, all of them real, for 40 ms
# instead of 7; smaller tiles than this are hardly shrunk any more.
_MIN_TILE_SIDE = 256
DEFAULT_THRESHOLD = 0.6

_MESH_WEIGHTS = "face-mesh-468"
_CROP_SCALE = 1.5  # of the box's long side
_MIN_PRESENCE = 0.5  # the mesh's own opinion on whether its crop holds a face
_POINTS = 468


@dataclass(frozen=True, slots=True)
class FoundFace:
    """A face in picture pixels: box as x_min, y_min, x_max, y_max, and six key points [6, 2]."""

    box: NDArray[np.float64]
    key_points: NDArray[np.float64]
    score: float


class FaceDetector:
    """Boxes and key points (right eye, left eye, nose tip, mouth, right and left ear)."""

    def __init__(self, store: ModelStore, *, threads: int = 1) -> None:
        self.info = model_info(store, _WEIGHTS)
        self._model = LiteModel(store.path(_WEIGHTS), threads=threads)

    def find(self, image: Image, threshold: float, watch: Stopwatch) -> list[FoundFace]:
        """Faces scored ``threshold`` or more, best first, boxes cut to the picture."""
        height, width = image.shape[:2]
        long_side = max(width, height)
        # A square about the whole picture is the letterbox: black beyond the picture.
        found = self._look(image, SquareCrop(width / 2, height / 2, long_side), threshold, watch)
        for tile in tiles(width, height):
            inside = self._look(image, tile, threshold, watch)
            found += [face for face in inside if not _cut_by(tile, face, width, height)]
        with watch.stage("postprocess"):
            if not found:
                return []
            boxes = clip_boxes(np.stack([face.box for face in found]), width, height)
            kept = nms(boxes, np.array([face.score for face in found]), _MAX_IOU)
            solid = [i for i in kept if (boxes[i, 2:] > boxes[i, :2]).all()]
            return [FoundFace(boxes[i], found[i].key_points, found[i].score) for i in solid]

    def _look(
        self, image: Image, crop: SquareCrop, threshold: float, watch: Stopwatch
    ) -> list[FoundFace]:
        with watch.stage("preprocess"):
            pixels = crop.cut(image, _INPUT_SIDE).astype(np.float32) / 127.5 - 1
        with watch.stage("inference"):
            outputs = self._model.run(pixels)
        with watch.stage("postprocess"):
            values = {out.shape[-1]: out[0] for out in outputs.values()}
            if values.keys() != {1, 16}:
                raise TaskError("inference_failed", f"{_WEIGHTS} has other outputs than expected")
            return _decode(values[16], values[1][:, 0], crop, threshold)


def tiles(width: int, height: int) -> list[SquareCrop]:
    """Squares of half the long side, overlapping by half, that cover the picture; none for a
    picture that the detector sees well enough whole."""
    side = max(width, height) / 2
    if side < _MIN_TILE_SIDE:
        return []
    return [SquareCrop(x, y, side) for y in _centres(height, side) for x in _centres(width, side)]


def _centres(length: int, side: float) -> list[float]:
    if length <= side:
        return [length / 2]
    count = 1 + int(np.ceil((length - side) / (side / 2) - 1e-9))
    return list(np.linspace(side / 2, length - side / 2, count))


def _decode(
    regressors: NDArray[np.float32],
    logits: NDArray[np.float32],
    crop: SquareCrop,
    threshold: float,
) -> list[FoundFace]:
    """Anchors are the centres of 48x48 cells; regressors are in pixels of the 192x192 input:
    centre x and y from the anchor, width, height, six key points x and y from the anchor."""
    scores = sigmoid(logits)
    candidates = np.flatnonzero((scores >= threshold) & np.isfinite(regressors).all(axis=1))
    if not candidates.size:
        return []
    raw = regressors[candidates].astype(np.float64) / _INPUT_SIDE
    anchors = (np.stack([candidates % _CELLS, candidates // _CELLS], axis=1) + 0.5) / _CELLS
    centre, half = raw[:, :2] + anchors, np.abs(raw[:, 2:4]) / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    kept = nms(boxes, scores[candidates], _MAX_IOU)
    points = raw[:, 4:].reshape(-1, 6, 2) + anchors[:, None]
    return [
        FoundFace(
            box=crop.to_picture(boxes[i].reshape(2, 2)).reshape(4),
            key_points=crop.to_picture(points[i]),
            score=float(scores[candidates[i]]),
        )
        for i in kept
    ]


def _cut_by(tile: SquareCrop, face: FoundFace, width: int, height: int) -> bool:
    """Whether a face touches a side of its tile behind which the picture goes on: a neighbouring
    tile, or the whole picture, sees it better."""
    margin = 0.01 * tile.side
    low = np.array([tile.x, tile.y]) - tile.side / 2
    high = low + tile.side
    inner_low, inner_high = low > 0.5, high < np.array([width, height]) - 0.5
    return bool(
        (inner_low & (face.box[:2] < low + margin)).any()
        or (inner_high & (face.box[2:] > high - margin)).any()
    )


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
        self._mesh = LiteModel(store.path(_MESH_WEIGHTS), threads=threads)
        self._info = [self._detector.info, model_info(store, _MESH_WEIGHTS)]

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
                raise TaskError(
                    "inference_failed", f"{_MESH_WEIGHTS} has other outputs than expected"
                )
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
