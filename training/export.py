"""The extractor as an ONNX file for the edge, built node by node.

Building the graph ourselves needs no tracer, gives the same bytes every time, and puts the input
rule (uint8 RGB, height x width x 3) inside the file.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from training.networks.extractor import LATENT_BOUND, Extractor, ResidualBlock

OPSET = 17
_IR_VERSION = 8


def extractor_to_onnx(extractor: Extractor) -> bytes:
    """Serialise ``extractor``: input ``image`` uint8 [H, W, 3], outputs float32 [C, h, w].

    H and W are multiples of 16; outputs are named ``semantic`` and ``texture``.
    """
    graph = _Graph()
    x = graph.node("Cast", ["image"], to=TensorProto.FLOAT)
    x = graph.node("Transpose", [x], perm=[2, 0, 1])
    x = graph.node("Unsqueeze", [x, graph.constant("batch_axis", np.array([0], np.int64))])
    x = graph.node("Mul", [x, graph.constant("scale", np.array(1 / 255, np.float32))])
    x = graph.node("Sub", [x, graph.constant("middle", np.array(0.5, np.float32))])
    x = graph.relu(graph.conv("stem", extractor.stem, x))
    x = graph.relu(graph.conv("quarter", extractor.quarter, x))
    x = graph.relu(graph.conv("to_eighth", extractor.to_eighth, x))
    x = graph.residual("eighth", extractor.eighth, x)
    graph.latents("texture", extractor.texture, x)
    x = graph.relu(graph.conv("to_sixteenth", extractor.to_sixteenth, x))
    for number, block in enumerate(extractor.sixteenth):
        assert isinstance(block, ResidualBlock)
        x = graph.residual(f"sixteenth_{number}", block, x)
    graph.latents("semantic", extractor.semantic, x)

    config = extractor.config
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [channels, None, None])
        for name, channels in (
            ("semantic", config.semantic_channels),
            ("texture", config.texture_channels),
        )
    ]
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, [None, None, 3])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "extractor", [image], outputs, graph.initialisers),
        opset_imports=[helper.make_opsetid("", OPSET)],
        producer_name="featherwire",
    )
    model.ir_version = _IR_VERSION
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


class _Graph:
    """Nodes and initialisers as they grow; every method returns its output's name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.initialisers: list[onnx.TensorProto] = []

    def node(
        self, kind: str, inputs: list[str], output: str | None = None, **settings: object
    ) -> str:
        output = output or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **settings))
        return output

    def constant(self, name: str, values: np.ndarray) -> str:
        self.initialisers.append(numpy_helper.from_array(values, name))
        return name

    def relu(self, x: str) -> str:
        return self.node("Relu", [x])

    def conv(self, name: str, layer: nn.Conv2d, x: str) -> str:
        weight = self.constant(f"{name}.weight", layer.weight.detach().float().cpu().numpy())
        assert layer.bias is not None
        bias = self.constant(f"{name}.bias", layer.bias.detach().float().cpu().numpy())
        above, left = int(layer.padding[0]), int(layer.padding[1])
        return self.node(
            "Conv",
            [x, weight, bias],
            kernel_shape=list(layer.kernel_size),
            strides=list(layer.stride),
            pads=[above, left, above, left],
        )

    def residual(self, name: str, block: ResidualBlock, x: str) -> str:
        inner = self.relu(self.conv(f"{name}.first", block.first, x))
        return self.relu(self.node("Add", [x, self.conv(f"{name}.second", block.second, inner)]))

    def latents(self, name: str, head: nn.Conv2d, x: str) -> None:
        bounded = self.node("Tanh", [self.conv(name, head, x)])
        bound = self.constant(f"{name}.bound", np.array(LATENT_BOUND, np.float32))
        scaled = self.node("Mul", [bounded, bound])
        if not any(item.name == "batch_axis" for item in self.initialisers):
            self.constant("batch_axis", np.array([0], np.int64))
        self.node("Squeeze", [scaled, "batch_axis"], output=name)
