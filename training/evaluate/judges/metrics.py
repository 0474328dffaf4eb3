"""Metrics: figures of a reconstruction beside its original, in groups that are computed at once."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from codec.kit.losses.frozen import PerceptualDistance
from codec.kit.losses.textures import as_picture
from shared.errors import ModelError, TaskError
from shared.weights import ModelStore
from training.evaluate.measure import Coded, Figures, Subject
from training.evaluate.photos import EvaluationPhoto, Pixels

GROUPS = ("pixels", "squeeze", "vgg", "tasks")

WEIGHTS: dict[str, tuple[str, ...]] = {
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


@dataclass(frozen=True)
class Metric:
    """How a figure is read. ``decimals`` are those worth printing."""

    name: str
    label: str
    higher_is_better: bool
    decimals: int


METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR, dB", True, 2),
        Metric("ms_ssim", "MS-SSIM", True, 4),
        Metric("lpips_vgg", "LPIPS-like, VGG16 (never trained on)", False, 4),
        Metric("dists_vgg", "DISTS-like, VGG16 (never trained on)", False, 4),
        Metric("lpips_squeeze", "LPIPS-like, SqueezeNet (in the training loss)", False, 4),
        Metric("detection_ap", "detection AP against COCO's boxes", True, 4),
        Metric("detection_ap_tiled", "the same, in tiles at twice the input size", True, 4),
        Metric("detection_f1", "detections, F1 with the original's", True, 3),
        Metric("mask_iou", "person masks, IoU with the original's", True, 3),
        Metric("landmark_auc", "face landmarks, AUC at 0.1 of the eyes' distance", True, 3),
        Metric("landmark_error", "face landmarks, error over the eyes' distance", False, 4),
        Metric("landmark_misses", "faces lost", False, 3),
    )
}


class MetricGroup(Protocol):
    """Figures that are computed together. ``version`` changes whenever their values do."""

    @property
    def name(self) -> str:
        """One of :data:`GROUPS`."""

    @property
    def version(self) -> str:
        """Part of what results are cached under."""

    def open(self, original: Pixels) -> Callable[[Pixels], Figures]:
        """What compares reconstructions with ``original``, both uint8 [H, W, 3] of one size."""


class PictureJudge:
    """A group of metrics as a judge of subjects that make pictures."""

    def __init__(self, group: MetricGroup) -> None:
        self._group = group
        self.name, self.version = group.name, group.version

    def identity(self, subject: Subject, photo: EvaluationPhoto) -> str:
        """The subject's alone."""
        return subject.identity

    def open(self, photo: EvaluationPhoto) -> Callable[[Coded], Figures]:
        """What compares pictures with the photo."""
        compare = self._group.open(photo.pixels)

        def judge(coded: Coded) -> Figures:
            assert coded.picture is not None
            return compare(coded.picture)

        return judge


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
            opened.append(_open(name, store))
        except ModelError as error:
            command = f"featherwire-cloud models fetch {' '.join(WEIGHTS[name])}"
            notes.append(f"{name} is not measured: {error.message}; all it needs: {command}")
    return opened, notes


def _open(name: str, store: ModelStore) -> MetricGroup:
    """Raises ModelError when weights are missing."""
    if name == "pixels":
        return PixelDistances()
    if name == "tasks":
        from training.evaluate.judges.agreement import TaskAgreement

        return TaskAgreement(store)
    from safetensors.torch import load_file

    weights = [load_file(store.path(weight)) for weight in WEIGHTS[name]]
    if name == "squeeze":
        return SqueezeDistance(*weights)
    from training.evaluate.judges.vgg import VggDistances

    return VggDistances(*weights)


_MS_SSIM_SIDE = 160
"""Five scales under an 11-pixel window need more than (11 - 1) * 2**4 pixels a side."""


class PixelDistances:
    """``psnr`` (dB, at most 99) and ``ms_ssim`` (0..1; not for sides of 160 pixels or less)."""

    name = "pixels"
    version = "1"

    def open(self, original: Pixels) -> Callable[[Pixels], Figures]:
        """What compares reconstructions (uint8 [H, W, 3]) with ``original``."""
        from pytorch_msssim import ms_ssim

        first = as_picture(original)

        def compare(decoded: Pixels) -> Figures:
            second = as_picture(decoded)
            error = float((first - second).square().mean())
            figures: Figures = {"psnr": 99.0 if error == 0 else min(99.0, -10 * math.log10(error))}
            if min(original.shape[:2]) > _MS_SSIM_SIDE:
                with torch.inference_mode():
                    figures["ms_ssim"] = float(ms_ssim(first + 0.5, second + 0.5, data_range=1.0))
            return figures

        return compare


_SMALLEST_SIDE = 35


class SqueezeDistance:
    """``lpips_squeeze`` of pictures of at least 35 pixels a side."""

    name = "squeeze"
    version = "1"

    def __init__(
        self, backbone: Mapping[str, torch.Tensor], heads: Mapping[str, torch.Tensor]
    ) -> None:
        """backbone, heads: the model store's squeezenet-1.1 and lpips-squeeze."""
        self._distance = PerceptualDistance(backbone, heads).eval()

    def open(self, original: Pixels) -> Callable[[Pixels], Figures]:
        """What compares reconstructions (uint8 [H, W, 3]) with ``original``."""
        first = as_picture(original)

        def compare(decoded: Pixels) -> Figures:
            if min(original.shape[:2]) < _SMALLEST_SIDE:
                return {}
            with torch.inference_mode():
                return {"lpips_squeeze": float(self._distance(first, as_picture(decoded))[0])}

        return compare
