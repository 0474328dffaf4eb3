"""Faces by MediaPipe's dense full-range detector, on the whole picture and on tiles of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cloud_server.tasks.base import Image, model_info
from cloud_server.tasks.geometry import SquareCrop
from cloud_server.tasks.litert import LiteModel, sigmoid
from shared.errors import TaskError
from shared.results import Stopwatch, clip_boxes, nms
from shared.weights import ModelStore

_WEIGHTS = "face-detector-full-range"
_INPUT_SIDE = 192
_CELLS = 48
_MAX_IOU = 0.3
# On 113 COCO photos of 640 pixels tiles found 34 faces instead of 24, all of them real, for 40 ms
# instead of 7; smaller tiles than this are hardly shrunk any more.
_MIN_TILE_SIDE = 256


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
