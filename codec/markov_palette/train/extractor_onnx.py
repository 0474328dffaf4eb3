"""What the extractor's activations are like on real photos, for static quantisation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from onnx import TensorProto
from torch import Tensor, nn

from codec.kit.onnx_tools import Graph, conv_settings
from codec.kit.rounding import compensated_rounding
from codec.markov_palette.train.networks import LATENT_BOUND, LATENT_GAIN, Extractor, ResidualBlock

FloatArray = npt.NDArray[np.float64]

UINT8_MAX = 255
_FLOAT = frozenset({"semantic", "texture", "semantic_linear", "texture_linear", "prediction"})
_SAMPLES_PER_PICTURE = 8192
_PATCHES_PER_PICTURE = 1024
_CANDIDATES = np.linspace(0.3, 1.0, 36)


@dataclass(frozen=True)
class Activation:
    """How one tensor is held in uint8: value = scale * (q - zero_point)."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class PatchMoments:
    """Mean [k] and covariance [k, k] of what a convolution multiplies its kernel with.

    k counts input channels, rows, columns of the kernel, in the order of the weight's axes.
    """

    mean: FloatArray
    covariance: FloatArray


@dataclass(frozen=True)
class Calibration:
    """By module name: how outputs are held, and what convolutions see of their inputs."""

    activations: dict[str, Activation]
    patches: dict[str, PatchMoments]


def calibrate(extractor: Extractor, pictures: Iterable[Tensor]) -> Calibration:
    """Run ``pictures`` ([1, 3, H, W] in -0.5..0.5) through and look at every activation.

    Activations of convolutions whose outputs go through a ReLU, and of residual blocks, are those
    after the ReLU; a block's ``second`` convolution is added to the block's input before its ReLU
    and keeps its sign. Ranges are the ones with the least squared error, of rounding and clipping
    together. Raises ValueError without pictures.
    """
    observers = {
        name: (_Observer(module, signed=name.endswith(".second")), module)
        for name, module in extractor.named_modules()
        if isinstance(module, nn.Conv2d | ResidualBlock) and name.split(".")[0] not in _FLOAT
    }
    hooks = [module.register_forward_hook(observer) for observer, module in observers.values()]
    try:
        with torch.inference_mode():
            for picture in pictures:
                extractor(picture)
    finally:
        for hook in hooks:
            hook.remove()
    return Calibration(
        {name: observer.activation() for name, (observer, _) in observers.items()},
        {
            name: observer.moments()
            for name, (observer, module) in observers.items()
            if isinstance(module, nn.Conv2d)
        },
    )


class _Observer:
    """A forward hook that keeps samples of a module's outputs and moments of its inputs."""

    def __init__(self, module: nn.Module, *, signed: bool) -> None:
        self._signed = signed
        self._samples: list[npt.NDArray[np.float32]] = []
        self._patches = 0
        size = 0
        if isinstance(module, nn.Conv2d):
            size = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        self._sum = torch.zeros(size, dtype=torch.float64)
        self._products = torch.zeros((size, size), dtype=torch.float64)
        self._random = torch.Generator().manual_seed(0)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values = (output if self._signed else output.relu()).reshape(-1)
        chosen = torch.randint(len(values), (_SAMPLES_PER_PICTURE,), generator=self._random)
        self._samples.append(values[chosen].numpy())
        if not isinstance(module, nn.Conv2d):
            return
        padding = module.padding
        assert not isinstance(padding, str)
        patches = nn.functional.unfold(
            inputs[0], module.kernel_size, padding=padding, stride=module.stride
        )[0]
        order = torch.randperm(patches.shape[1], generator=self._random)
        patches = patches[:, order[:_PATCHES_PER_PICTURE]]
        self._patches += patches.shape[1]
        self._sum += patches.double().sum(1)
        self._products += (patches @ patches.T).double()

    def activation(self) -> Activation:
        if not self._samples:
            raise ValueError("calibration needs at least one picture")
        values = np.concatenate(self._samples)
        lowest, highest = min(0.0, float(values.min())), max(1e-6, float(values.max()))
        best: tuple[float, Activation] | None = None
        for share in _CANDIDATES:
            scale = float(share) * (highest - lowest) / UINT8_MAX
            zero_point = round(-float(share) * lowest / scale)
            held = np.clip(np.rint(values / scale) + zero_point, 0, UINT8_MAX) - zero_point
            error = float(np.square(scale * held - values).mean())
            if best is None or error < best[0]:
                best = (error, Activation(scale, zero_point))
        assert best is not None
        return best[1]

    def moments(self) -> PatchMoments:
        mean = (self._sum / self._patches).numpy()
        return PatchMoments(mean, (self._products / self._patches).numpy() - np.outer(mean, mean))


MIDDLE = 127.5
"""What a sample of a picture is centred on; zero padding of the centred picture stays zero."""
PIXEL_SCALE = 1 / 255


def extractor_to_onnx(extractor: Extractor) -> bytes:
    """Serialise ``extractor``: input ``image`` uint8 [H, W, 3], outputs float32 [C, h, w].

    H and W are multiples of 16; outputs are named ``semantic`` and ``texture``. The 1/255 of the
    input and the gain of the latents are inside the weights. Texture is what the network gives:
    its prediction from quantised semantic is for the encoder to subtract.
    """
    graph = Graph()
    picture = centred(graph)
    x = graph.node("Relu", [_conv(graph, "stem", extractor.stem, picture, input_scale=PIXEL_SCALE)])
    x = graph.node("Relu", [_conv(graph, "quarter", extractor.quarter, x)])
    x = graph.node("Relu", [_conv(graph, "to_eighth", extractor.to_eighth, x)])
    x = _residual(graph, "eighth", extractor.eighth, x)
    detail = x
    for number, block in enumerate(extractor.texture_blocks):
        assert isinstance(block, ResidualBlock)
        detail = _residual(graph, f"texture_{number}", block, detail)
    x = graph.node("Relu", [_conv(graph, "to_sixteenth", extractor.to_sixteenth, x)])
    for number, block in enumerate(extractor.sixteenth):
        assert isinstance(block, ResidualBlock)
        x = _residual(graph, f"sixteenth_{number}", block, x)
    latents(graph, extractor, picture, {"semantic": x, "texture": detail})
    return graph.model(latent_channels(extractor))


def latent_channels(extractor: Extractor) -> dict[str, int]:
    """The outputs' names and channels."""
    config = extractor.config
    return {"semantic": config.semantic_channels, "texture": config.texture_channels}


def centred(graph: Graph) -> str:
    """``image`` as float32 [1, 3, H, W] in -127.5..127.5."""
    x = graph.node("Unsqueeze", ["image", graph.constant("batch_axis", np.array([0], np.int64))])
    x = graph.node("Transpose", [x], perm=[0, 3, 1, 2])
    x = graph.node("Cast", [x], to=TensorProto.FLOAT)
    return graph.node("Sub", [x, graph.constant("middle", np.array(MIDDLE, np.float32))])


def latents(graph: Graph, extractor: Extractor, picture: str, features: dict[str, str]) -> None:
    """The outputs: heads on ``features`` plus projections of the centred picture, bounded."""
    for name, feature in features.items():
        head = _conv(graph, name, getattr(extractor, name), feature, gain=LATENT_GAIN)
        layer = getattr(extractor, f"{name}_linear")
        linear = _conv(
            graph, f"{name}_linear", layer, picture, gain=LATENT_GAIN, input_scale=PIXEL_SCALE
        )
        bounded = graph.node("Tanh", [graph.node("Add", [linear, head])])
        bound = graph.constant("bound", np.array(LATENT_BOUND, np.float32))
        scaled = graph.node("Mul", [bounded, bound])
        batch_axis = graph.constant("batch_axis", np.array([0], np.int64))
        graph.node("Squeeze", [scaled, batch_axis], output=name)


def arrays(layer: nn.Conv2d) -> tuple[FloatArray, FloatArray]:
    """A layer's weight [out, in, k, k] and bias [out] as float64."""
    assert layer.bias is not None
    weight, bias = (t.detach().cpu().double().numpy() for t in (layer.weight, layer.bias))
    return weight, bias


def _conv(
    graph: Graph, name: str, layer: nn.Conv2d, x: str, *, gain: float = 1, input_scale: float = 1
) -> str:
    """gain * layer(input_scale * x)."""
    weight, bias = arrays(layer)
    return graph.conv(
        name,
        (weight * gain * input_scale).astype(np.float32),
        (bias * gain).astype(np.float32),
        int(layer.stride[0]),
        int(layer.padding[0]),
        x,
    )


def _residual(graph: Graph, name: str, block: ResidualBlock, x: str) -> str:
    inner = graph.node("Relu", [_conv(graph, f"{name}.first", block.first, x)])
    outer = _conv(graph, f"{name}.second", block.second, inner)
    return graph.node("Relu", [graph.node("Add", [x, outer])])


LARGEST_WEIGHT = 63
"""Seven bits: two products with uint8 then fit into int16, where processors without VNNI add them
in pairs and saturate (2 * 255 * 63 < 2**15). An eighth bit would make their latents wrong."""
_LARGEST_BIAS = 2**29
PICTURE = Activation(PIXEL_SCALE, 128)
"""The picture's own samples."""
_PICTURE_OFFSET = (PICTURE.zero_point - MIDDLE) * PIXEL_SCALE
"""What the centred picture has more than its uint8 tensor says: half a step."""


def extractor_to_int8_onnx(extractor: Extractor, calibration: Calibration) -> bytes:
    """Serialise ``extractor`` with what :func:`calibrate` found; inputs and outputs are those of
    :func:`extractor_to_onnx`.

    The convolutions read the picture's own samples and are integer throughout. The projections
    and heads, a fiftieth of the multiply-adds and most of the information, stay in float32.
    Operators are QLinearConv and QLinearAdd: the arithmetic is in the file, and does not depend
    on what a runtime makes of pairs of QuantizeLinear and DequantizeLinear.
    """
    graph = _QuantisedGraph(calibration)
    x = graph.conv_of("stem", extractor.stem, graph.picture())
    x = graph.conv_of("quarter", extractor.quarter, x)
    x = graph.conv_of("to_eighth", extractor.to_eighth, x)
    x = graph.residual("eighth", extractor.eighth, x)
    detail = x
    for number, block in enumerate(extractor.texture_blocks):
        assert isinstance(block, ResidualBlock)
        detail = graph.residual(f"texture_blocks.{number}", block, detail)
    x = graph.conv_of("to_sixteenth", extractor.to_sixteenth, x)
    for number, block in enumerate(extractor.sixteenth):
        assert isinstance(block, ResidualBlock)
        x = graph.residual(f"sixteenth.{number}", block, x)
    features = {"semantic": graph.dequantised(x), "texture": graph.dequantised(detail)}
    latents(graph, extractor, centred(graph), features)
    return graph.model(latent_channels(extractor))


class _QuantisedGraph(Graph):
    """Operators on uint8 tensors, which are called as the modules whose outputs they hold."""

    def __init__(self, calibration: Calibration) -> None:
        super().__init__()
        self._activations = {**calibration.activations, "picture": PICTURE}
        self._patches = calibration.patches

    def picture(self) -> str:
        """``image`` as uint8 [1, 3, H, W]."""
        x = self.node("Unsqueeze", ["image", self.constant("batch_axis", np.array([0], np.int64))])
        return self.node("Transpose", [x], perm=[0, 3, 1, 2], output="picture")

    def conv_of(self, name: str, layer: nn.Conv2d, x: str) -> str:
        """relu(layer(x)), by saturation at the zero point 0; ``second`` of a block has its own."""
        weight, bias = arrays(layer)
        flat = weight.reshape(len(weight), -1)
        # As fine as the weights allow, and coarse enough for the bias to fit into int32.
        per_step = self._activations[x].scale
        finest = np.abs(bias) / (per_step * _LARGEST_BIAS) + 1e-12
        scales = np.maximum(np.abs(flat).max(1) / LARGEST_WEIGHT, finest)
        seen = self._patches[name]
        steps = compensated_rounding(flat, scales, seen.covariance, LARGEST_WEIGHT)
        rounded = steps * scales[:, None]
        # What rounding shifts the mean output by; and the half step of the picture.
        bias = bias + (flat - rounded) @ seen.mean
        if x == "picture":
            bias = bias + _PICTURE_OFFSET * rounded.sum(1)
        bias_steps = np.rint(bias / (per_step * scales))
        scale, zero_point = self._parameters(x)
        weights = [
            self.constant(f"{name}.weight", steps.reshape(weight.shape)),
            self.constant(f"{name}.weight_scale", scales.astype(np.float32)),
            self.constant(f"{name}.weight_zero_point", np.zeros(len(scales), np.int8)),
        ]
        return self.node(
            "QLinearConv",
            [x, scale, zero_point, *weights, *self._parameters(name),
             self.constant(f"{name}.bias", bias_steps.astype(np.int32))],
            output=name,
            **conv_settings(weight, int(layer.stride[0]), int(layer.padding[0])),
        )  # fmt: skip

    def residual(self, name: str, block: ResidualBlock, x: str) -> str:
        """The whole block."""
        inner = self.conv_of(f"{name}.first", block.first, x)
        outer = self.conv_of(f"{name}.second", block.second, inner)
        inputs = [x, *self._parameters(x), outer, *self._parameters(outer)]
        return self.node("QLinearAdd", [*inputs, *self._parameters(name)], output=name)

    def dequantised(self, x: str) -> str:
        """x as float32."""
        return self.node("DequantizeLinear", [x, *self._parameters(x)])

    def _parameters(self, name: str) -> list[str]:
        held = self._activations[name]
        return [
            self.constant(f"{name}.scale", np.array(held.scale, np.float32)),
            self.constant(f"{name}.zero_point", np.array(held.zero_point, np.uint8)),
        ]
