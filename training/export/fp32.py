"""The extractor as an ONNX file in float32."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto
from torch import nn

from training.export.graph import Graph
from training.networks.extractor import LATENT_BOUND, LATENT_GAIN, Extractor, ResidualBlock

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


def arrays(layer: nn.Conv2d) -> tuple[np.ndarray, np.ndarray]:
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
