"""What every task is, and the little that all of them share."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
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
        """What ``--tasks`` calls it."""

    @property
    def models(self) -> list[ModelInfo]:
        """The weights it runs."""

    def run(self, images: Sequence[Image]) -> list[TaskResult]:
        """One result per picture, in order. Raises TaskError; never downloads anything."""


class Stopwatch:
    """Milliseconds per stage, added up when a stage is entered more than once."""

    def __init__(self) -> None:
        self.milliseconds: dict[str, float] = {
            "preprocess": 0.0,
            "inference": 0.0,
            "postprocess": 0.0,
        }

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            elapsed = 1000 * (time.perf_counter() - started)
            self.milliseconds[name] = self.milliseconds.get(name, 0.0) + elapsed


def expect_image(image: Image) -> Image:
    """The picture, C-contiguous. Raises TaskError(``bad_image``) for anything else."""
    try:
        return from_array(image)
    except PhotoError as error:
        raise TaskError("bad_image", error.message) from error


def model_info(store: ModelStore, name: str) -> ModelInfo:
    """What a result says of a model of the store."""
    entry = store.entry(name)
    return ModelInfo(
        name=entry.name, version=entry.version, sha256=entry.sha256, licence=entry.licence
    )


def check_threshold(value: float) -> float:
    """A score threshold. Raises TaskError(``bad_option``) outside 0..1."""
    if not 0 <= value <= 1:
        raise TaskError("bad_option", f"a score threshold lies in 0..1, not {value}")
    return value
