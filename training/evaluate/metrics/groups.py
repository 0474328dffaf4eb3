"""Metric groups by name, opened as far as their weights are here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from shared.errors import ModelError, TaskError
from shared.weights import ModelStore
from training.evaluate.metrics.base import MetricGroup

GROUPS = ("pixels", "squeeze", "vgg", "tasks")

WEIGHTS = {
    "pixels": (),
    "squeeze": ("squeezenet-1.1", "lpips-squeeze"),
    "vgg": ("vgg16-hed", "lpips-vgg", "dists-weights"),
    "tasks": (
        "ssd-mobilenetv3-coco",
        "ssd-mobilenetv3-coco-graph",
        "ssd-mobilenetv3-coco-labels",
        "face-detector-full-range",
        "face-mesh-468",
        "person-mask",
    ),
}


def open_groups(
    names: Sequence[str] = GROUPS, store: ModelStore | None = None, *, fetch: bool = False
) -> tuple[list[MetricGroup], list[str]]:
    """The groups that can be measured here, and a note for every one that cannot.

    fetch: get missing weights first. Raises TaskError ``bad_option`` for an unknown name.
    """
    unknown = set(names) - set(GROUPS)
    if unknown:
        raise TaskError(
            "bad_option", f"no metrics {', '.join(sorted(unknown))}; known: {', '.join(GROUPS)}"
        )
    store = store or ModelStore()
    opened: list[MetricGroup] = []
    notes: list[str] = []
    for name in names:
        try:
            if fetch and WEIGHTS[name]:
                store.fetch(*WEIGHTS[name])
            opened.append(_OPENERS[name](store))
        except ModelError as error:
            command = f"featherwire-cloud models fetch {' '.join(WEIGHTS[name])}"
            notes.append(f"{name} is not measured: {error.message}; all it needs: {command}")
    return opened, notes


def _pixels(store: ModelStore) -> MetricGroup:
    from training.evaluate.metrics.pixels import PixelDistances

    return PixelDistances()


def _squeeze(store: ModelStore) -> MetricGroup:
    from safetensors.torch import load_file

    from training.evaluate.metrics.squeeze import SqueezeDistance

    return SqueezeDistance(*(load_file(store.path(name)) for name in WEIGHTS["squeeze"]))


def _vgg(store: ModelStore) -> MetricGroup:
    from safetensors.torch import load_file

    from training.evaluate.metrics.vgg import VggDistances

    return VggDistances(*(load_file(store.path(name)) for name in WEIGHTS["vgg"]))


def _tasks(store: ModelStore) -> MetricGroup:
    from training.evaluate.metrics.tasks import TaskAgreement

    return TaskAgreement(store)


_OPENERS: dict[str, Callable[[ModelStore], MetricGroup]] = {
    "pixels": _pixels,
    "squeeze": _squeeze,
    "vgg": _vgg,
    "tasks": _tasks,
}
