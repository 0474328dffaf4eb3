"""The analysis as an ONNX file."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from codec.kit.onnx_tools import Graph
from codec.lapped_lattice.networks import STRIDE
from codec.lapped_lattice.train.networks import Analysis

_FAR = np.iinfo(np.int64).max


def analysis_onnx(analysis: Analysis, scale: str) -> bytes:
    """Input ``image`` uint8 [H, W, 3], sides multiples of 16; output float32 [C, H / 16, W / 16].

    scale: the output's name.
    """
    graph = Graph()
    picture = graph.node("Cast", ["image"], to=1)
    picture = graph.node("Transpose", [picture], perm=[2, 0, 1])
    zero = graph.constant("zero", np.array([0], np.int64))
    picture = graph.node("Unsqueeze", [picture, zero])
    # Of pixels, not of shares of them: values of 255 in -0.5..0.5.
    mix = _numpy(analysis.mix) / 255
    bias = (-0.5 * _numpy(analysis.mix).sum(1)).astype(np.float32)
    colours = graph.conv("mix", mix[:, :, None, None].astype(np.float32), bias, 1, 0, picture)
    for axis in (2, 3):
        colours = _mirrored(graph, colours, axis)
    parts = []
    for colour, kernels in enumerate(analysis.transforms):
        one = _sliced(graph, colours, colour, colour + 1, 1)
        weight = _numpy(kernels)
        none = np.zeros(len(weight), np.float32)
        parts.append(graph.conv(f"transform{colour}", weight, none, STRIDE, 0, one))
    values = graph.node("Concat", parts, axis=1)
    order = graph.constant("order", analysis.order.numpy().astype(np.int64))
    values = graph.node("Gather", [values, order], axis=1)
    deviations = _numpy(analysis.deviations)
    for number, (inner, outer) in enumerate(zip(analysis.inner, analysis.outer, strict=True)):
        first, first_bias = _of(inner)
        last, last_bias = _of(outer)
        first = first / deviations[None, :, None, None]
        last = last * deviations[:, None, None, None]
        hidden = graph.conv(f"inner{number}", first, first_bias, 1, 1, values)
        hidden = graph.node("Relu", [hidden])
        added = graph.conv(f"outer{number}", last, last_bias * deviations, 1, 1, hidden)
        values = graph.node("Add", [values, added])
    graph.node("Squeeze", [values, zero], scale)
    return graph.model({scale: len(deviations)})


def _mirrored(graph: Graph, values: str, axis: int) -> str:
    """Half a block more on both sides of an axis, the edge's own pixels first."""
    half = STRIDE // 2
    first = _sliced(graph, values, half - 1, -_FAR, axis, -1)
    last = _sliced(graph, values, -1, -half - 1, axis, -1)
    return graph.node("Concat", [first, values, last], axis=axis)


def _sliced(graph: Graph, values: str, start: int, end: int, axis: int, step: int = 1) -> str:
    given = [
        graph.constant(f"slice{value}", np.array([value], np.int64))
        for value in (start, end, axis, step)
    ]
    return graph.node("Slice", [values, *given])


def _of(layer: nn.Module) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    assert isinstance(layer, nn.Conv2d)
    assert layer.bias is not None
    return _numpy(layer.weight), _numpy(layer.bias)


def _numpy(values: Tensor) -> npt.NDArray[np.float32]:
    return np.ascontiguousarray(values.detach().numpy(), np.float32)
