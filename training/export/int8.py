"""The extractor as an ONNX file in static int8: uint8 activations, int8 weights per channel."""

from __future__ import annotations

import numpy as np
from torch import nn

from training.export.calibration import Activation, Calibration
from training.export.fp32 import MIDDLE, PIXEL_SCALE, arrays, centred, latent_channels, latents
from training.export.graph import Graph, conv_settings
from training.export.rounding import compensated_rounding
from training.networks.extractor import Extractor, ResidualBlock

LARGEST_WEIGHT = 63
"""Seven bits: two products with uint8 then fit into int16, where processors without VNNI add them
in pairs and saturate (2 * 255 * 63 < 2**15). An eighth bit would make their latents wrong."""
_LARGEST_BIAS = 2**29
PICTURE = Activation(PIXEL_SCALE, 128)
"""The picture's own samples."""
_PICTURE_OFFSET = (PICTURE.zero_point - MIDDLE) * PIXEL_SCALE
"""What the centred picture has more than its uint8 tensor says: half a step."""


def extractor_to_int8_onnx(extractor: Extractor, calibration: Calibration) -> bytes:
    """Serialise ``extractor`` with what :func:`training.export.calibrate` found; inputs and
    outputs are those of :func:`training.export.extractor_to_onnx`.

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
