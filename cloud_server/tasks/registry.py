"""Tasks by name. A task has one or more back ends; ``open_task`` makes one ready to run."""

from __future__ import annotations

from collections.abc import Callable

from cloud_server.tasks.base import Task, TaskOptions
from shared.errors import TaskError
from shared.weights import ModelStore

EMBEDDED = "embedded"
ULTRALYTICS = "ultralytics"


Factory = Callable[[ModelStore, TaskOptions], Task]


def open_task(
    name: str,
    store: ModelStore | None = None,
    backend: str | None = None,
    device: str = "cpu",
    *,
    score_threshold: float | None = None,
    threads: int = 1,
) -> Task:
    """A task with its weights loaded.

    backend: None or ``embedded`` for the built-in models; ``ultralytics`` for its default model;
    the name or path of Ultralytics weights (anything ending in ``.pt``, such as ``yolo11n.pt``).

    Raises TaskError(``unknown_task`` | ``unknown_backend`` | ``bad_option``), and ModelError when
    weights are missing, damaged, or a library for them is not installed.
    """
    factories = _factories()
    if name not in factories:
        known = ", ".join(factories)
        raise TaskError("unknown_task", f"no task {name!r}; known are {known}", task=name)
    model: str | None = None
    kind = backend or EMBEDDED
    if kind.endswith(".pt"):
        kind, model = ULTRALYTICS, kind
    if kind not in factories[name]:
        known = ", ".join(factories[name])
        raise TaskError(
            "unknown_backend", f"{name} has no back end {backend!r}; it has {known}", task=name
        )
    options = TaskOptions(
        device=device, model=model, score_threshold=score_threshold, threads=threads
    )
    return factories[name][kind](store or ModelStore(), options)


def task_names() -> tuple[str, ...]:
    """Every task that ``open_task`` knows."""
    return tuple(_factories())


def _factories() -> dict[str, dict[str, Factory]]:
    """Task and back end to what makes it. Each imports its libraries only when it is called."""
    return {
        "detection": {EMBEDDED: _detection, ULTRALYTICS: _ultralytics_detection},
        "segmentation": {EMBEDDED: _segmentation, ULTRALYTICS: _ultralytics_segmentation},
        "landmarks": {EMBEDDED: _landmarks},
    }


def _detection(store: ModelStore, options: TaskOptions) -> Task:
    from cloud_server.tasks.detection import DetectionTask

    return DetectionTask(store, score_threshold=options.score_threshold)


def _segmentation(store: ModelStore, options: TaskOptions) -> Task:
    from cloud_server.tasks.segmentation import SegmentationTask

    return SegmentationTask(store, score_threshold=options.score_threshold, threads=options.threads)


def _landmarks(store: ModelStore, options: TaskOptions) -> Task:
    from cloud_server.tasks.landmarks import LandmarksTask

    return LandmarksTask(store, score_threshold=options.score_threshold, threads=options.threads)


def _ultralytics_detection(store: ModelStore, options: TaskOptions) -> Task:
    from cloud_server.tasks.ultralytics_backend import UltralyticsTask

    return UltralyticsTask("detection", store, options.model or "yolo11n.pt", options)


def _ultralytics_segmentation(store: ModelStore, options: TaskOptions) -> Task:
    from cloud_server.tasks.ultralytics_backend import UltralyticsTask

    return UltralyticsTask("segmentation", store, options.model or "yolo11n-seg.pt", options)
