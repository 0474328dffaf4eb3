"""The detector's backbone: MobileNetV3-Large, as the packaged SSD has it."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from training.fit.features.backbone import BackboneShape
from training.fit.features.distance import FeatureDistance

WEIGHTS = "ssd-mobilenetv3-backbone"
SHAPE = BackboneShape(
    strides=(1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1),
    activations=(F.relu,) * 6 + (F.hardswish,) * 9,
    outer=F.hardswish,
    scale=2.0,
    offset=0.0,
)
TAPS = (5, 6, 11, 14)
"""40 channels at stride 8, 80 and 112 at stride 16 (what the first boxes see), 80 at 32."""


class DetectorDistance(FeatureDistance):
    """Feature matching with the detector that reads reconstructions."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """tensors: the model store's ``ssd-mobilenetv3-backbone``."""
        super().__init__(tensors, SHAPE, TAPS)
