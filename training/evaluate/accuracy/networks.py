"""Whole networks, for pictures that codecs made: the packaged detector, or a bundle's own."""

from __future__ import annotations

import cv2
import numpy as np

from cloud_server.tasks.detection import Ssd
from cloud_server.tasks.geometry import shrink
from shared.results import Stopwatch
from shared.weights import ModelStore
from training.evaluate.accuracy.base import Kind, Output, Pixels
from training.evaluate.accuracy.boxes import KEPT_SCORE, rows
from training.evaluate.accuracy.feature_coder import FeatureCoder
from training.evaluate.photos import EvaluationPhoto

_SSD_SIDE = 320


class PackagedDetector:
    """The SSD of `detection`, uncut: score 0.05 or more, suppressed at 0.6, at most 100 a photo."""

    input_size = (_SSD_SIDE, _SSD_SIDE)

    def __init__(self, store: ModelStore | None = None) -> None:
        """Raises ModelError when weights are missing."""
        self._ssd = Ssd(store or ModelStore())
        weights = self._ssd.info.sha256[:16]
        self.identity = f"ssd-{weights}-opencv-{cv2.__version__}-1"

    def prepare(self, picture: Pixels) -> Pixels:
        """320 x 320 pixels, as the task makes them."""
        return shrink(picture, *self.input_size)

    def run(self, picture: Pixels, photo: EvaluationPhoto) -> Output:
        """Rows as :class:`~training.evaluate.accuracy.boxes.Boxes` has them."""
        height, width = photo.pixels.shape[:2]
        found = self._ssd.find(np.ascontiguousarray(picture), KEPT_SCORE, Stopwatch())
        return rows(found, width / picture.shape[1], height / picture.shape[0])


class UncutNetwork:
    """A bundle's two halves joined: what its tail says of features that nobody quantised."""

    def __init__(self, coder: FeatureCoder, task: str, kind: Kind) -> None:
        """task: one of the bundle's tails'."""
        self._coder, self._task, self._kind = coder, task, kind
        resize = coder.settings.resize
        self.input_size = None if resize is None else (resize.width, resize.height)
        self.identity = f"uncut-{coder.identity[:16]}-{task}-{kind.name}-{kind.version}"

    def prepare(self, picture: Pixels) -> Pixels:
        """At the manifest's size, if it has one."""
        return self._coder.seen(picture)

    def run(self, picture: Pixels, photo: EvaluationPhoto) -> Output:
        """The tail's output, told that the state is 0."""
        # A picture that was prepared already lies in the input as the photo would.
        prepared = self.input_size == (picture.shape[1], picture.shape[0])
        shown = picture if prepared else self.prepare(picture)
        outputs = self._coder.uncut(shown, self._task)
        height, width = photo.pixels.shape[:2]
        spec = self._coder.spec(self._task)
        return self._kind.of_tail(outputs, spec, self._coder.placement(width, height), photo)
