"""Both halves as ONNX files: head with analysis for the edge, synthesis with tail for the cloud."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from training.export.graph import OPSET
from training.split.model import CutModel
from training.split.network import SplitNetwork

_IR_VERSION = 8
_LEAST_HALVED = 64
"""Tensors of fewer values stay float32."""


def extractor_onnx(model: CutModel, network: SplitNetwork) -> bytes:
    """Input ``image`` uint8 [height, width, 3]; an output float32 [latent, h, w] a scale."""
    info = network.info
    image = torch.zeros(info.height, info.width, 3, dtype=torch.uint8)
    names = [scale.name for scale in info.scales]
    return _written(_Edge(model, network, names), (image,), ["image"], names, {})


def tail_onnx(model: CutModel, network: SplitNetwork, *, halves: bool = True) -> bytes:
    """Inputs float32 [N, latent, h, w] a scale and ``state`` int64 [N]; outputs of the kind.

    halves: weights are stored as float16, and cast when the file is loaded.
    """
    info = network.info
    names = [scale.name for scale in info.scales]
    grids = [
        torch.zeros(2, model.settings.latent, info.height // s.stride, info.width // s.stride)
        for s in info.scales
    ]
    outputs = ["boxes", "scores"] if info.output == "boxes" else ["scores"]
    inputs = [*names, "state"]
    data = _written(
        _Cloud(model, network, names),
        (*grids, torch.zeros(2, dtype=torch.long)),
        inputs,
        outputs,
        {name: {0: "pictures"} for name in [*inputs, *outputs]},
    )
    return _halved(data) if halves else data


class _Edge(nn.Module):
    def __init__(self, model: CutModel, network: SplitNetwork, names: list[str]) -> None:
        super().__init__()
        self.model, self.network, self.names = model, network, names

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        picture = image.permute(2, 0, 1)[None].float()
        latents = self.model.latents(self.network.head(picture))
        return tuple(latents[name][0] for name in self.names)


class _Cloud(nn.Module):
    def __init__(self, model: CutModel, network: SplitNetwork, names: list[str]) -> None:
        super().__init__()
        self.model, self.network, self.names = model, network, names

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        colours = dict(zip(self.names, inputs[:-1], strict=True))
        features = self.model.features(colours, inputs[-1])
        return self.network.finish(self.network.tail(features))


def _written(
    module: nn.Module,
    example: tuple[Tensor, ...],
    inputs: list[str],
    outputs: list[str],
    free: Mapping[str, Mapping[int, str]],
) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.no_grad():
        # The tracing exporter needs no further package; torch calls it old.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            example,
            buffer,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes={name: dict(axes) for name, axes in free.items()},
            opset_version=OPSET,
            do_constant_folding=True,
            dynamo=False,
        )
    model = onnx.load_model_from_string(buffer.getvalue())
    model.producer_name, model.producer_version = "featherwire", ""
    model.ir_version = _IR_VERSION
    for node in model.graph.node:
        node.ClearField("doc_string")
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))


def _halved(data: bytes) -> bytes:
    """Weights as float16 with a Cast in front of what uses them."""
    model = onnx.load_model_from_string(data)
    graph = model.graph
    kept, casts = [], []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.size < _LEAST_HALVED:
            kept.append(tensor)
            continue
        small = values.astype(np.float16)
        if not np.isfinite(small).all():
            kept.append(tensor)
            continue
        name = f"{tensor.name}.half"
        kept.append(numpy_helper.from_array(small, name))
        casts.append(helper.make_node("Cast", [name], [tensor.name], to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(kept)
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString(deterministic=True))
