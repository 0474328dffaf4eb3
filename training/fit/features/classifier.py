"""EfficientNet-Lite0 (ImageNet), the classifier whose features are matched."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional as F

from training.fit.features.backbone import BackboneShape
from training.fit.features.distance import FeatureDistance

WEIGHTS = "efficientnet-lite0"
SHAPE = BackboneShape(
    strides=(1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1),
    activations=(F.relu6,) * 16,
    outer=F.relu6,
    scale=255 / 128,
    offset=(127.5 - 127) / 128,
)
TAPS = (2, 4, 7, 10, 14)
"""The ends of the stages: 24 channels at stride 4, 40 at 8, 80 and 112 at 16, 192 at 32."""


class ClassifierDistance(FeatureDistance):
    """Feature matching with an ImageNet classifier, at five stages."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        """tensors: the model store's ``efficientnet-lite0``."""
        super().__init__(tensors, SHAPE, TAPS)
