"""Whole networks, for pictures that codecs made: the packaged detector, or a bundle's own.

:class:`TaskJudge` keeps what a network says of every version of a photo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import cv2
import numpy as np

from cloud_server.tasks.detection import DetectionTask
from cloud_server.tasks.geometry import shrink
from shared.results import Box, TaskResult
from shared.weights import ModelStore
from training.evaluate.judges.kinds import KEPT_SCORE, Kind
from training.evaluate.measure import Coded, Figures, Subject
from training.evaluate.photos import EvaluationPhoto, Pixels
from training.evaluate.subjects import Halves

_SSD_SIDE = 320


class Network(Protocol):
    """A whole network, for pictures that a codec made."""

    @property
    def identity(self) -> str:
        """What its outputs are cached under."""

    @property
    def input_size(self) -> tuple[int, int] | None:
        """(width, height) that pictures are brought to; None when they keep their size."""

    @property
    def sha256(self) -> str | None:
        """Of its weights, by which a bundle's advice knows it."""

    @property
    def class_names(self) -> Mapping[int, str]:
        """Names by class id."""

    def prepare(self, picture: Pixels) -> Pixels:
        """The picture at the input's size, uint8 [h, w, 3]: what the network would look at."""

    def run(self, picture: Pixels, size: tuple[int, int]) -> TaskResult:
        """What it says of a version of a photo, of any size, in pixels of the photo.

        size: width and height of the photo.
        """


class PackagedDetector:
    """The SSD of `detection`, uncut: score 0.05 or more, suppressed at 0.6, at most 100 a photo."""

    def __init__(self, store: ModelStore | None = None) -> None:
        """Raises ModelError when weights are missing."""
        self._task = DetectionTask(store or ModelStore(), score_threshold=KEPT_SCORE)
        self.input_size: tuple[int, int] | None = (_SSD_SIDE, _SSD_SIDE)
        weights = str(self._task.models[0].sha256)[:16]
        self.identity = f"ssd-{weights}-opencv-{cv2.__version__}-1"
        self.sha256 = self._task.models[0].sha256
        self.class_names: Mapping[int, str] = self._task.class_names

    def prepare(self, picture: Pixels) -> Pixels:
        """320 x 320 pixels, as the task makes them."""
        return shrink(picture, _SSD_SIDE, _SSD_SIDE)

    def run(self, picture: Pixels, size: tuple[int, int]) -> TaskResult:
        """Detections, boxes scaled to the photo's pixels."""
        (result,) = self._task.run([np.ascontiguousarray(picture)])
        across, down = size[0] / picture.shape[1], size[1] / picture.shape[0]
        found = [
            one.model_copy(
                update={
                    "box": Box(
                        x_min=one.box.x_min * across,
                        y_min=one.box.y_min * down,
                        x_max=one.box.x_max * across,
                        y_max=one.box.y_max * down,
                    )
                }
            )
            for one in result.detections or ()
        ]
        return result.model_copy(update={"detections": found})


class UncutNetwork:
    """A bundle's two halves joined: what its tail says of features that nobody quantised."""

    def __init__(self, halves: Halves, task: str) -> None:
        """task: one of the bundle's tails'. Raises EvaluationError ``no_tails``."""
        self._tail, self._uncut = halves.tail(task), halves.uncut()
        self.input_size = self._uncut.input_size
        self.identity = f"uncut-{halves.identity[:16]}-{task}-2"
        self.sha256 = self._tail.models[0].sha256
        self.class_names: Mapping[int, str] = halves.class_names(task)

    def prepare(self, picture: Pixels) -> Pixels:
        """At the size that the bundle wants, if it wants one."""
        return self._uncut.prepare(picture)

    def run(self, picture: Pixels, size: tuple[int, int]) -> TaskResult:
        """The tail's result, told that the state is 0."""
        _, latents = self._uncut.encode(picture, size)
        return self._tail.run([latents])[0]


class TaskJudge:
    """Keeps the ``output`` of every version of a photo, and its ``bytes``."""

    def __init__(self, kind: Kind, network: Network) -> None:
        """network: looks at pictures; results of tails are taken as they are."""
        self._kind, self._network = kind, network
        self.name, self.version = f"accuracy-{kind.name}", kind.version

    def identity(self, subject: Subject, photo: EvaluationPhoto) -> str:
        """The subject, the network if it looks at pictures, and a label picture's pixels."""
        looked_at = f"|{self._network.identity}" if subject.makes == "picture" else ""
        return f"{subject.identity}{looked_at}|{_label_key(photo)}"

    def open(self, photo: EvaluationPhoto) -> Callable[[Coded], Figures]:
        """What says the output of a version of the photo."""
        height, width = photo.pixels.shape[:2]

        def judge(coded: Coded) -> Figures:
            result = coded.result
            if result is None:
                assert coded.picture is not None
                result = self._network.run(coded.picture, (width, height))
            return {"bytes": coded.bytes, "output": self._kind.output(result, photo)}

        return judge


def _label_key(photo: EvaluationPhoto) -> str:
    """Counts of pixels depend on the label picture."""
    if photo.labels is None:
        return ""
    return EvaluationPhoto("", np.repeat(photo.labels[:, :, None], 3, 2)).digest[:16]
