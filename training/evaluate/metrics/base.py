"""What a metric is: a figure of a reconstruction beside its original."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

Pixels = npt.NDArray[np.uint8]
Figures = dict[str, Any]
"""JSON-ready: numbers by metric, None where a photo has nothing to measure; raw detections."""


class MetricGroup(Protocol):
    """Figures that are computed together. ``version`` changes whenever their values do."""

    name: str
    version: str

    def open(self, original: Pixels) -> Callable[[Pixels], Figures]:
        """What compares reconstructions with ``original``, both uint8 [H, W, 3] of one size."""


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
        Metric("detection_f1", "detections, F1 with the original's", True, 3),
        Metric("mask_iou", "person masks, IoU with the original's", True, 3),
        Metric("landmark_auc", "face landmarks, AUC at 0.1 of the eyes' distance", True, 3),
        Metric("landmark_error", "face landmarks, error over the eyes' distance", False, 4),
        Metric("landmark_misses", "faces lost", False, 3),
    )
}


def as_tensor(pixels: Pixels) -> torch.Tensor:
    """uint8 [H, W, 3] as float32 [1, 3, H, W] in -0.5..0.5."""
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None].float() / 255 - 0.5
