"""An ONNX graph built node by node: no tracer, and the same bytes every time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

Weights = npt.NDArray[np.float32]
OPSET = 17
_IR_VERSION = 8
_CONTRIBUTED = "com.microsoft"
_CONTRIBUTED_KINDS = frozenset({"QLinearAdd"})


class Graph:
    """Nodes and initialisers as they grow; every method returns its output's name."""

    def __init__(self) -> None:
        self._nodes: list[onnx.NodeProto] = []
        self._initialisers: dict[str, onnx.TensorProto] = {}

    def node(self, kind: str, inputs: list[str], output: str | None = None, **settings: Any) -> str:
        """Append an operator with one output, which is called ``output`` or numbered."""
        output = output or f"v{len(self._nodes)}"
        domain = _CONTRIBUTED if kind in _CONTRIBUTED_KINDS else None
        self._nodes.append(helper.make_node(kind, inputs, [output], domain=domain, **settings))
        return output

    def constant(self, name: str, values: npt.NDArray[Any]) -> str:
        """A tensor that is stored in the file; the same name again is the same tensor."""
        self._initialisers.setdefault(name, numpy_helper.from_array(values, name))
        return name

    def conv(
        self, name: str, weight: Weights, bias: Weights, stride: int, padding: int, x: str
    ) -> str:
        """float32 convolution: weight [out, in, k, k], bias [out]."""
        names = [self.constant(f"{name}.weight", weight), self.constant(f"{name}.bias", bias)]
        settings: dict[str, Any] = {**conv_settings(weight, stride, padding)}
        return self.node("Conv", [x, *names], **settings)

    def model(self, scales: dict[str, int]) -> bytes:
        """Serialise. Input ``image`` uint8 [H, W, 3]; outputs float32 [channels, h, w] by name."""
        outputs = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, [channels, None, None])
            for name, channels in scales.items()
        ]
        image = helper.make_tensor_value_info("image", TensorProto.UINT8, [None, None, 3])
        initialisers = list(self._initialisers.values())
        opsets = [helper.make_opsetid("", OPSET)]
        if any(node.domain for node in self._nodes):
            opsets.append(helper.make_opsetid(_CONTRIBUTED, 1))
        model = helper.make_model(
            helper.make_graph(self._nodes, "extractor", [image], outputs, initialisers),
            opset_imports=opsets,
            producer_name="featherwire",
        )
        model.ir_version = _IR_VERSION
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString(deterministic=True))


def conv_settings(weight: npt.NDArray[Any], stride: int, padding: int) -> dict[str, list[int]]:
    """The attributes of every kind of ONNX convolution."""
    return {
        "kernel_shape": list(weight.shape[2:]),
        "strides": [stride, stride],
        "pads": [padding] * 4,
    }
