"""Mobile networks of inverted residuals in plain torch, frozen, from the model store's tensors.

The names of the tensors are those of :mod:`shared.weights.convert`. Kernel sizes, widths,
expansion, squeeze and excitation, and residual connections follow from the tensors; strides and
activations do not, and are given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class BackboneShape:
    """What the tensors do not say. Each block has a stride and the activation inside it."""

    strides: tuple[int, ...]
    activations: tuple[Activation, ...]
    outer: Activation
    """The activation behind the stem and behind the last convolution."""
    scale: float
    offset: float
    """The network takes ``scale * picture + offset`` of a picture in -0.5..0.5."""


class Backbone(nn.Module):
    """The blocks of a frozen network; no gradient is kept for its weights."""

    def __init__(self, tensors: Mapping[str, Tensor], shape: BackboneShape) -> None:
        """tensors: float32, as the store's safetensors file has them. Raises KeyError."""
        super().__init__()
        self.shape = shape
        self.stem = convolution(tensors, "stem", stride=2)
        self.blocks = nn.ModuleList(
            InvertedResidual(tensors, f"blocks.{number}", stride, activation)
            for number, (stride, activation) in enumerate(
                zip(shape.strides, shape.activations, strict=True)
            )
        )
        self.last = convolution(tensors, "last")
        self.requires_grad_(False)
        self.eval()
        self.to(memory_format=torch.channels_last)

    def forward(self, picture: Tensor, taps: tuple[int, ...]) -> list[Tensor]:
        """[n, 3, h, w] in -0.5..0.5 (RGB) -> the outputs of the blocks numbered in ``taps``.

        ``taps`` ascends; blocks behind its last are not computed.
        """
        x = picture * self.shape.scale + self.shape.offset
        x = self.shape.outer(self.stem(x.contiguous(memory_format=torch.channels_last)))
        found = []
        for number, block in enumerate(self.blocks[: taps[-1] + 1]):
            x = block(x)
            if number in taps:
                found.append(x)
        return found

    def head(self, last_block: Tensor) -> Tensor:
        """The last block's output -> what the 1x1 convolution behind the blocks makes of it."""
        return self.shape.outer(self.last(last_block))

    def deviations(self, taps: tuple[int, ...]) -> list[Tensor]:
        """The standard deviation of every channel at the taps, float32 [channels] each.

        Batch norm tells a projection's; along residual connections variances add up (as of
        parts that are uncorrelated).
        """
        variance, found = torch.zeros(()), []
        for number, block in enumerate(self.blocks):
            own = block.deviation.square()
            variance = variance + own if block.residual else own
            if number in taps:
                found.append(variance.sqrt())
        return found


class InvertedResidual(nn.Module):
    """Widen, filter each channel, squeeze and excite, project (Sandler et al. 2018)."""

    deviation: Tensor

    def __init__(
        self, tensors: Mapping[str, Tensor], name: str, stride: int, activation: Activation
    ) -> None:
        super().__init__()
        self.activation = activation
        widens = f"{name}.expand.weight" in tensors
        self.expand = convolution(tensors, f"{name}.expand") if widens else None
        self.depthwise = convolution(tensors, f"{name}.depthwise", stride=stride)
        excites = f"{name}.squeeze.weight" in tensors
        self.squeeze = convolution(tensors, f"{name}.squeeze") if excites else None
        self.excite = convolution(tensors, f"{name}.excite") if excites else None
        self.project = convolution(tensors, f"{name}.project")
        enters = (self.expand or self.depthwise).weight.shape[1 if widens else 0]
        self.residual = stride == 1 and enters == len(self.project.weight)
        self.register_buffer("deviation", tensors[f"{name}.project.deviation"].float().clone())

    def forward(self, x: Tensor) -> Tensor:
        """[n, channels, h, w] -> [n, channels', ceil(h / stride), ceil(w / stride)]."""
        wide = x if self.expand is None else self.activation(self.expand(x))
        wide = self.activation(self.depthwise(wide))
        if self.squeeze is not None and self.excite is not None:
            pooled = F.relu(self.squeeze(wide.mean((2, 3), keepdim=True)))
            wide = wide * F.hardsigmoid(self.excite(pooled))
        narrow = self.project(wide)
        return x + narrow if self.residual else narrow


class _SameConv2d(nn.Conv2d):
    """A strided convolution padded as TensorFlow's ``SAME``: the odd pixel goes behind."""

    def forward(self, input: Tensor) -> Tensor:
        # Plain numbers, also where a tracer watches.
        height, width = int(input.shape[2]), int(input.shape[3])
        return super().forward(F.pad(input, self._margins(height, width)))

    def _margins(self, height: int, width: int) -> tuple[int, int, int, int]:
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        vertical, horizontal = (
            max(0, (-(-length // stride) - 1) * stride + kernel - length)
            for length in (height, width)
        )
        return (
            horizontal // 2,
            horizontal - horizontal // 2,
            vertical // 2,
            vertical - vertical // 2,
        )


def convolution(tensors: Mapping[str, Tensor], name: str, stride: int = 1) -> nn.Conv2d:
    """The layer whose ``name``.weight (OIHW) and .bias are given; depthwise if I is 1.

    With a stride of 1 it keeps the size; else it is padded as TensorFlow's ``SAME``.
    """
    weight, bias = tensors[f"{name}.weight"], tensors[f"{name}.bias"]
    leaves, enters, kernel, _ = weight.shape
    depthwise = enters == 1
    layer = (nn.Conv2d if stride == 1 else _SameConv2d)(
        leaves if depthwise else enters,
        leaves,
        kernel,
        stride=stride,
        padding=kernel // 2 if stride == 1 else 0,
        groups=leaves if depthwise else 1,
    )
    with torch.no_grad():
        layer.weight.copy_(weight)
        assert layer.bias is not None
        layer.bias.copy_(bias)
    return layer


@dataclass(frozen=True)
class FrozenNetwork:
    """A network of the model store. model: the store's name of its weights. taps: the blocks
    whose outputs a feature-matching loss compares."""

    model: str
    shape: BackboneShape
    taps: tuple[int, ...]


DETECTOR = FrozenNetwork(
    "ssd-mobilenetv3-backbone",
    BackboneShape(
        strides=(1, 2, 1, 2, 1, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1),
        activations=(F.relu,) * 6 + (F.hardswish,) * 9,
        outer=F.hardswish,
        scale=2.0,
        offset=0.0,
    ),
    (5, 6, 11, 14),
)
"""MobileNetV3-Large, as the packaged SSD has it, which reads reconstructions. Taps: 40 channels at
stride 8, 80 and 112 at stride 16 (what the first boxes see), 80 at 32."""

CLASSIFIER = FrozenNetwork(
    "efficientnet-lite0",
    BackboneShape(
        strides=(1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1),
        activations=(F.relu6,) * 16,
        outer=F.relu6,
        scale=255 / 128,
        offset=(127.5 - 127) / 128,
    ),
    (2, 4, 7, 10, 14),
)
"""EfficientNet-Lite0 (ImageNet). Taps: the ends of the stages, 24 channels at stride 4, 40 at 8,
80 and 112 at 16, 192 at 32."""
