"""A tiny bundle of features: a real extractor, two operating points, a tail that finds one thing.

Pictures are brought to 64x64 pixels; the features are the mean colour of every 16x16 pixels, from -1
to 1; the tail reports one box, the upper left quarter, with the picture's mean red as its score. So a
test chooses the score by the picture: :func:`scored`.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from shared.bundle import Bundle, ChainSpec, Manifest, ResizeSpec, ScaleSpec, TailSpec
from shared.palette import DiffusionState, MarkovPalette, PaletteTree, PlaneSpec
from tests.support.tiny_contexts import tiny_contexts

SCALE = ScaleSpec(name="features", stride=16, channels=3)
PLANES = (
    PlaneSpec(name="fine_0", scale="features", first_channel=0, channels=3, depth=6),
    PlaneSpec(name="coarse_0", scale="features", first_channel=0, channels=3, depth=4),
)
CHAINS = (((6,), (4,), (2,)), ((4,), (1,)))
"""Depths of the states of each chain: states 0 to 2, and 3 to 4."""
FIRST_STATE_OF_SECOND = 3


def make_feature_bundle(folder: Path, name: str = "tiny-features") -> Bundle:
    """The bundle, with every file that a feature bundle has."""
    palette_arrays: dict[str, NDArray[np.generic]] = {}
    context_arrays: dict[str, NDArray[np.generic]] = {}
    states: list[DiffusionState] = []
    for plane, depths in zip(PLANES, CHAINS, strict=True):
        rows = tuple(
            DiffusionState(
                state=len(states) + number, depths=row, typical_bits_per_pixel=row[0] / 1000
            )
            for number, row in enumerate(depths)
        )
        states += rows
        palette = MarkovPalette((plane,), {plane.name: _greys(plane.depth)}, rows)
        palette_arrays |= palette.to_arrays()
        context_arrays |= tiny_contexts(palette).to_arrays()
    manifest = Manifest(
        name=name,
        version="1",
        codec="markov-palette",
        scales=(SCALE,),
        planes=PLANES,
        states=tuple(states),
        input_multiple=16,
        halo_positions=0,
        resize=ResizeSpec(width=64, height=64),
        chains=tuple(ChainSpec(planes=1, states=len(depths)) for depths in CHAINS),
        tails=(
            TailSpec.model_validate(
                {
                    "task": "detection",
                    "output": "boxes",
                    "classes": [{"id": 1, "name": "red"}],
                    "model": {"name": "redness", "version": "1", "licence": "Apache-2.0"},
                }
            ),
        ),
        files={},
    )
    files = {
        "palette.npz": _npz(palette_arrays),
        "contexts.npz": _npz(context_arrays),
        "extractor.onnx": _extractor(),
        "tail.onnx": _tail(),
    }
    return Bundle.create(folder, manifest, files)


def scored(score: float, width: int = 160, height: int = 96) -> NDArray[np.uint8]:
    """A grey picture, uint8 [height, width, 3], in which the tail's score is about ``score``."""
    return np.full((height, width, 3), round(255 * score), np.uint8)


def _greys(depth: int) -> PaletteTree:
    leaves = np.repeat(np.linspace(-1, 1, 2**depth)[:, None], 3, axis=1)
    return PaletteTree.from_leaves(leaves, np.ones(2**depth, np.int64))


def _extractor() -> bytes:
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["H", "W", 3])
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, [3, "h", "w"])
    constants = {
        "half": np.array(127.5, np.float32),
        "one": np.array(1.0, np.float32),
        "first": np.array([0], np.int64),
    }
    nodes = [
        helper.make_node("Cast", ["image"], ["real"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["real"], ["planar"], perm=[2, 0, 1]),
        helper.make_node("Div", ["planar", "half"], ["doubled"]),
        helper.make_node("Sub", ["doubled", "one"], ["centred"]),
        helper.make_node("Unsqueeze", ["centred", "first"], ["batch"]),
        helper.make_node(
            "AveragePool", ["batch"], ["pooled"], kernel_shape=[16, 16], strides=[16, 16]
        ),
        helper.make_node("Squeeze", ["pooled", "first"], ["features"]),
    ]
    return _model(nodes, [image], [features], constants)


def _tail() -> bytes:
    features = helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 3, "h", "w"])
    boxes = helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["N", 1, 4])
    scores = helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 1, 1])
    constants = {
        "box": np.array([[[0.0, 0.0, 0.5, 0.5]]], np.float32),
        "half": np.array(0.5, np.float32),
        "nothing": np.array(0.0, np.float32),
        "all": np.array(1.0, np.float32),
        "channel": np.array([0], np.int64),
        "places": np.array([2, 3], np.int64),
        "last": np.array([2], np.int64),
    }
    nodes = [
        helper.make_node("ReduceMean", ["features", "places"], ["means"], keepdims=0),
        helper.make_node("Gather", ["means", "channel"], ["red"], axis=1),
        helper.make_node("Unsqueeze", ["red", "last"], ["spread"]),
        helper.make_node("Mul", ["spread", "half"], ["halved"]),
        helper.make_node("Add", ["halved", "half"], ["share"]),
        helper.make_node("Clip", ["share", "nothing", "all"], ["scores"]),
        helper.make_node("Mul", ["scores", "nothing"], ["zeros"]),
        helper.make_node("Add", ["zeros", "box"], ["boxes"]),
    ]
    return _model(nodes, [features], [boxes, scores], constants)


def _model(
    nodes: list[onnx.NodeProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
    constants: dict[str, NDArray[np.generic]],
) -> bytes:
    weights = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    model.ir_version = 9
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _npz(arrays: dict[str, NDArray[np.generic]]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
