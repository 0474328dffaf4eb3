"""Padding that a convolution does by itself: the same numbers, and nothing touched that is not."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from codec.onnx import _constant_outputs
from codec.runtime.graph import padded_by_convolutions
from shared.bundle import Bundle

AROUND = (0, 0, 1, 0, 0, 0, 2, 1)


def small_network(
    around: tuple[int, ...] = AROUND,
    *,
    mode: str = "constant",
    value: float | None = None,
    computed: bool = False,
    given: bool = False,
    twice: bool = False,
    **settings: Any,
) -> bytes:
    """x float32 [1, 2, 9, 9] ─ Pad ─ Conv ─ y. computed, given: the padding is the output of an
    operator, or an input."""
    values = np.array(around, np.int64)
    weight = np.random.default_rng(0).normal(size=(3, 2, 3, 3)).astype(np.float32)
    stored = [numpy_helper.from_array(weight, "w")]
    nodes = []
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 9, 9])]
    if given:
        inputs.append(helper.make_tensor_value_info("pads", TensorProto.INT64, [8]))
    elif computed:
        stored.append(numpy_helper.from_array(values.astype(np.int32), "narrow"))
        nodes.append(helper.make_node("Cast", ["narrow"], ["pads"], to=TensorProto.INT64))
    else:
        stored.append(numpy_helper.from_array(values, "pads"))
    if value is not None:
        stored.append(numpy_helper.from_array(np.array(value, np.float32), "value"))
    padding = ["x", "pads", "" if value is None else "value"]
    nodes += [
        helper.make_node("Pad", padding, ["padded"], mode=mode),
        helper.make_node("Conv", ["padded", "w"], ["y"], strides=[2, 2], **settings),
    ]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    if twice:
        outputs.append(helper.make_tensor_value_info("padded", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "small", inputs, outputs, stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    return bytes(model.SerializeToString())


def kinds(data: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(data).graph.node]


def outputs(data: bytes, **inputs: np.ndarray) -> list[Any]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return list(ort.InferenceSession(data, options, ["CPUExecutionProvider"]).run(None, inputs))


@pytest.mark.parametrize("name", ["detect", "classify"])
def test_packaged_networks_give_the_same_bits_without_an_operator_that_pads(name: str) -> None:
    bundle = Bundle.load(name)
    before = bundle.read("extractor.onnx")
    after = padded_by_convolutions(before, _constant_outputs)
    assert "Pad" not in kinds(after)
    onnx.checker.check_model(after)
    resize = bundle.manifest.settings["resize"]
    shape = (resize["height"], resize["width"], 3)
    image = np.random.default_rng(1).integers(0, 256, shape, np.uint8)
    for one, other in zip(outputs(before, image=image), outputs(after, image=image), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("settings", [{}, {"pads": [1, 2, 0, 1]}, {"auto_pad": "NOTSET"}])
@pytest.mark.parametrize("computed", [False, True])
def test_the_convolution_pads(settings: dict[str, Any], computed: bool) -> None:
    before = small_network(computed=computed, **settings)
    after = padded_by_convolutions(before, _constant_outputs)
    assert kinds(after) == ["Conv"]
    x = np.random.default_rng(2).normal(size=(1, 2, 9, 9)).astype(np.float32)
    np.testing.assert_array_equal(outputs(before, x=x)[0], outputs(after, x=x)[0])


@pytest.mark.parametrize(
    "data",
    [
        small_network(mode="reflect"),
        small_network(value=1.0),
        small_network(given=True),
        small_network(twice=True),
        small_network((0, 1, 1, 1, 0, -1, 1, 1)),
        small_network((0, 0, -1, 0, 0, 0, 0, 0)),
        small_network(auto_pad="SAME_UPPER"),
        b"no model",
        b"",
    ],
)
def test_what_a_convolution_cannot_do_stays(data: bytes) -> None:
    assert padded_by_convolutions(data, _constant_outputs) == data


def test_a_runtime_that_fails_changes_nothing() -> None:
    def fail(data: bytes) -> list[Any]:
        raise RuntimeError("not today")

    data = small_network(computed=True)
    assert padded_by_convolutions(data, fail) == data
