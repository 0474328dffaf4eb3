"""Frozen networks of the model store in plain torch, and distances in their features as losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
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
        # torch's annotations leave this argument out.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, picture: Tensor, taps: tuple[int, ...]) -> list[Tensor]:
        """[n, 3, h, w] in -0.5..0.5 (RGB) -> the outputs of the blocks numbered in ``taps``.

        ``taps`` ascends; blocks behind its last are not computed.
        """
        x = picture * self.shape.scale + self.shape.offset
        x = self.shape.outer(self.stem(x.contiguous(memory_format=torch.channels_last)))
        found = []
        for number in range(taps[-1] + 1):
            x = self.blocks[number](x)
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
            assert isinstance(block, InvertedResidual)
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
        narrow: Tensor = self.project(wide)
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


class FeatureDistance(nn.Module):
    """Mean squared difference of features, in units of each channel's own deviation.

    0 for equal pictures, about 2 for unrelated ones (two independent values of unit variance),
    whatever the stage; the average over the tapped stages.
    """

    def __init__(
        self, tensors: Mapping[str, Tensor], shape: BackboneShape, taps: tuple[int, ...]
    ) -> None:
        """tensors: the network, as the model store keeps it. taps: numbers of blocks."""
        super().__init__()
        self.backbone = Backbone(tensors, shape)
        self.taps = taps
        for number, deviation in zip(taps, self.backbone.deviations(taps), strict=True):
            # A channel that training all but switched off must not outweigh the others.
            floor = 0.2 * float(deviation.square().mean().sqrt())
            gain = 1 / deviation.clamp_min(floor)
            self.register_buffer(f"gain_{number}", gain.view(1, -1, 1, 1))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two batches [n, 3, h, w] in -0.5..0.5 (RGB), sides >= 32 -> distance float32 [n].

        Gradients flow to ``first`` only: ``second`` is the original.
        """
        with torch.no_grad():
            wanted = self.backbone(second, self.taps)
        total = first.new_zeros(len(first), dtype=torch.float32)
        found = self.backbone(first, self.taps)
        for number, mine, theirs in zip(self.taps, found, wanted, strict=True):
            gain = cast(Tensor, getattr(self, f"gain_{number}"))
            difference = (mine - theirs).float() * gain
            total = total + difference.square().mean((1, 2, 3))
        return total / len(self.taps)


SHOWN_EVERY = 20
"""Logs are written every so many steps; each of the networks that take turns is then in some."""

LOSSES = {"detector": DETECTOR, "classifier": CLASSIFIER}
"""The feature-matching losses: the networks whose features they compare."""


def whose_turn(names: Sequence[str], step: int) -> str:
    """Which of the networks judges at a step: each in turn, and in turn where logs are written."""
    return names[(step + step // SHOWN_EVERY) % len(names)]


def load_losses(files: Mapping[str, Path]) -> dict[str, FeatureDistance]:
    """The losses named by the keys, each from its safetensors file.

    Raises KeyError for a name that is not in ``LOSSES`` and for a file of another network.
    """
    losses = {}
    for name, file in files.items():
        network = LOSSES[name]
        losses[name] = FeatureDistance(load_file(file), network.shape, network.taps)
    return losses


_MEANS_RGB = (123.68, 116.779, 103.939)
_FIRES = {"fire2": 3, "fire3": 4, "fire4": 6, "fire5": 7, "fire6": 9, "fire7": 10, "fire8": 11}
_FIRES |= {"fire9": 12}
"""The fire modules and their numbers among the published network's ``features``."""
WINDOWS = 3
"""Down and across, of statistics of textures."""
_TAPS = {"fire3", "fire5", "fire6", "fire7", "fire8", "fire9"}
_POOL_BEFORE = {"fire2", "fire4", "fire6"}


class PerceptualDistance(nn.Module):
    """Distance of two batches of pictures, averaged over positions and summed over stages."""

    means: Tensor

    def __init__(
        self,
        backbone: Mapping[str, Tensor],
        heads: Mapping[str, Tensor],
        *,
        even: bool = False,
    ) -> None:
        """backbone: ``features.*`` as torchvision names them; heads: ``lin{k}.weight``.

        even: all channels of a stage weigh what they weigh on average, see above; a loss that is
        so is better for what other networks see.
        """
        super().__init__()
        self.weights = nn.ParameterDict()
        if even:
            heads = {
                name: torch.full_like(head, float(head.mean())) for name, head in heads.items()
            }
        for name, value in [*backbone.items(), *heads.items()]:
            if not name.startswith("classifier"):
                frozen = nn.Parameter(value.float().clone(), requires_grad=False)
                self.weights[name.replace(".", "/")] = frozen
        self.register_buffer("means", torch.tensor(_MEANS_RGB).view(1, 3, 1, 1))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        """Two batches [n, 3, h, w] in -0.5..0.5 (RGB), sides >= 35 -> distance [n]."""
        return self._distance(self._features(torch.cat((first, second))))

    def with_textures(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The distance, and how much statistics of textures differ, [n] each, 0..1.

        Statistics are means and deviations of each channel in ``WINDOWS`` x ``WINDOWS`` windows,
        compared as DISTS compares them (Ding et al., TPAMI 2020: (2 a b + c) / (a^2 + b^2 + c)),
        but without covariances: texture of the same kind is as good as the same texture.
        """
        features = self._features(torch.cat((first, second)))
        alike = first.new_zeros(len(first))
        for feature in features:
            mean = F.adaptive_avg_pool2d(feature, WINDOWS)
            square = F.adaptive_avg_pool2d(feature.square(), WINDOWS)
            deviation = ((square - mean.square()).clamp_min(0) + 1e-6).sqrt()
            # What is small beside the stage's usual values says little.
            least = 1e-2 * square.mean().detach()
            for statistic in (mean, deviation):
                left, right = statistic.chunk(2)
                ratio = (2 * left * right + least) / (left.square() + right.square() + least)
                alike = alike + ratio.mean((1, 2, 3))
        return self._distance(features), 1 - alike / (2 * len(features))

    def _distance(self, features: list[Tensor]) -> Tensor:
        total = features[0].new_zeros(len(features[0]) // 2)
        for stage, feature in enumerate(features):
            unit = feature / (feature.square().sum(1, keepdim=True).sqrt() + 1e-10)
            left, right = unit.chunk(2)
            head = self._weight(f"lin{stage}/weight")
            total = total + F.conv2d((left - right).square(), head).mean((1, 2, 3))
        return total

    def _features(self, picture: Tensor) -> list[Tensor]:
        x = (picture + 0.5) * 255.0 - self.means
        x = F.relu(self._conv("features/0", x, stride=2))
        taps = [x]
        for name, number in _FIRES.items():
            if name in _POOL_BEFORE:
                x = F.max_pool2d(x, 3, 2, ceil_mode=True)
            squeezed = F.relu(self._conv(f"features/{number}/squeeze", x))
            x = torch.cat(
                (
                    F.relu(self._conv(f"features/{number}/expand1x1", squeezed)),
                    F.relu(self._conv(f"features/{number}/expand3x3", squeezed, padding=1)),
                ),
                1,
            )
            if name in _TAPS:
                taps.append(x)
        return taps

    def _conv(self, name: str, x: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
        weight, bias = self._weight(f"{name}/weight"), self._weight(f"{name}/bias")
        return F.conv2d(x, weight, bias, stride=stride, padding=padding)

    def _weight(self, name: str) -> Tensor:
        return cast(Tensor, self.weights[name])


def flatness(picture: Tensor) -> Tensor:
    """Where the eye sees the slightest pattern: near 1 on flat areas, near 0 on texture.

    picture: [n, 3, H, W] in -0.5..0.5. Returns exp(-deviation / 4 grey levels) of each pixel's
    9 x 9 neighbourhood (the channels' mean), [n, 1, H, W]; our own, crude, masking model.
    """
    grey = picture.mean(1, keepdim=True)
    mean = F.avg_pool2d(grey, 9, 1, 4, count_include_pad=False)
    square = F.avg_pool2d(grey.square(), 9, 1, 4, count_include_pad=False)
    return torch.exp(-(square - mean.square()).clamp_min(0).sqrt() * 255 / 4)


def shifted(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Both pictures' same random window, 32 pixels smaller; half of the times a part of it, twice
    as large.

    A decoder whose grid always lies the same way on the strides of the networks that judge it
    learns a grid of dots that they like; and of what they see at half resolution only, they
    see the pixels when it is enlarged.
    """
    first, second = _window(first, second, 32)
    if torch.rand(()) < 0.5:
        return first, second
    halves = _window(first, second, first.shape[-1] // 2)
    return tuple(F.interpolate(half, scale_factor=2, mode="bilinear") for half in halves)  # type: ignore[return-value]


def _window(first: Tensor, second: Tensor, smaller: int) -> tuple[Tensor, Tensor]:
    margin = min(smaller, first.shape[-1] - 32)
    top, left = (int(offset) for offset in torch.randint(margin + 1, (2,)))
    rows = slice(top, top + first.shape[-2] - margin)
    columns = slice(left, left + first.shape[-1] - margin)
    return first[..., rows, columns], second[..., rows, columns]
