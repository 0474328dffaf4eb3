"""The contract of a task, its options, and what all tasks share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from shared.errors import PhotoError, TaskError
from shared.preprocess import from_array
from shared.results import ModelInfo, TaskResult
from shared.weights import ModelStore

Image = NDArray[np.uint8]
"""uint8 [height, width, 3], RGB, sides from 16 to 8192."""


class Task(Protocol):
    """Finds one kind of thing in pictures. An instance is used by one thread at a time."""

    @property
    def name(self) -> str:
        """The task's name, as ``--tasks`` takes it."""

    @property
    def models(self) -> list[ModelInfo]:
        """The weights that the task runs."""

    def run(self, images: Sequence[Image]) -> list[TaskResult]:
        """One result per picture, in order. Raises TaskError; never downloads anything."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """What ``open_task`` passes on; None means the back end's own default.

    ``model`` is a weights file or name, for back ends that run more than one; ``threads`` is per
    inference.
    """

    device: str = "cpu"
    model: str | None = None
    score_threshold: float | None = None
    threads: int = 1


def expect_image(image: Image) -> Image:
    """The picture, C-contiguous. Raises TaskError(``bad_image``) for anything else."""
    try:
        return from_array(image)
    except PhotoError as error:
        raise TaskError("bad_image", error.message) from error


def model_info(store: ModelStore, name: str) -> ModelInfo:
    """The facts of a stored model that go into results: name, version, SHA-256, licence."""
    entry = store.entry(name)
    return ModelInfo(
        name=entry.name, version=entry.version, sha256=entry.sha256, licence=entry.licence
    )
