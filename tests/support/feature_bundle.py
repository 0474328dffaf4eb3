"""A tiny bundle of features: two chains, a fixed input, a tail that finds boxes.

Its extractor averages blocks of 16 pixels, and its tail calls every position a box whose scores
are what the colours there say: red things and blue things can be found with it.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from codec.markov_palette.palette import MarkovPalette, PaletteTree
from codec.markov_palette.train.small import tiny_contexts
from codec.settings import (
    ChainSpec,
    DiffusionState,
    FeatureSettings,
    PlaneSpec,
    ResizeSpec,
    ScaleSpec,
    TailClass,
    TailModel,
    TailSpec,
    create_bundle,
)
from shared.bundle import Bundle

SIDE = 64
STRIDE = 16
CLASSES = ("red", "blue")
CHAINS = (((6,), (4,)), ((3,), (1,)))
"""By chain, the depths of its states."""


def make_feature_bundle(folder: Path, *, fit: str = "stretch", told_state: bool = False) -> Bundle:
    """The bundle ``tiny-features``: task ``detection``, states 0 and 1, 2 and 3."""
    planes, states, arrays = [], [], {}
    for number, depths in enumerate(CHAINS):
        plane = PlaneSpec(
            name=f"rgb_{number}", scale="rgb", first_channel=0, channels=3, depth=depths[0][0]
        )
        rows = tuple(
            DiffusionState(
                state=len(states) + row, depths=depth, typical_bits_per_pixel=sum(depth) / 256
            )
            for row, depth in enumerate(depths)
        )
        palette = MarkovPalette([plane], {plane.name: _tree(plane.depth)}, rows)
        arrays |= {"palette.npz": arrays.get("palette.npz", {}) | palette.to_arrays()}
        arrays |= {
            "contexts.npz": arrays.get("contexts.npz", {}) | tiny_contexts(palette).to_arrays()
        }
        planes.append(plane)
        states += rows
    files = {name: _npz(values) for name, values in arrays.items()}
    files |= {"extractor.onnx": extractor(), "tail.onnx": tail(told_state=told_state)}
    settings = FeatureSettings(
        scales=(ScaleSpec(name="rgb", stride=STRIDE, channels=3),),
        planes=tuple(planes),
        states=tuple(states),
        chains=tuple(ChainSpec(planes=1, states=len(depths)) for depths in CHAINS),
        input_multiple=STRIDE,
        halo_positions=0,
        resize=ResizeSpec(width=SIDE, height=SIDE, fit=fit),  # type: ignore[arg-type]
        tails=(
            TailSpec(
                task="detection",
                output="boxes",
                classes=tuple(TailClass(id=k + 1, name=name) for k, name in enumerate(CLASSES)),
                model=TailModel(name="blocks", version="1", licence="Apache-2.0"),
            ),
        ),
    )
    manifest = settings.manifest(
        name="tiny-features",
        version="1",
        codec="markov-palette",
    )
    return create_bundle(folder, manifest, files)


def extractor() -> bytes:
    """image uint8 [H, W, 3] -> rgb float32 [3, H/16, W/16], -1 to 1."""
    block = [STRIDE, STRIDE]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planar"], perm=[2, 0, 1]),
        helper.make_node("Unsqueeze", ["planar", "zero"], ["batch"]),
        helper.make_node("AveragePool", ["batch"], ["mean"], kernel_shape=block, strides=block),
        helper.make_node("Squeeze", ["mean", "zero"], ["single"]),
        helper.make_node("Div", ["single", "half"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "one"], ["rgb"]),
    ]
    constants = {
        "zero": np.array([0], np.int64),
        "half": np.array(127.5, np.float32),
        "one": np.array(1.0, np.float32),
    }
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["h", "w", 3])]
    return _model(nodes, constants, inputs, {"rgb": [3, "rows", "columns"]})


def tail(*, told_state: bool = False, classes: int = 2) -> bytes:
    """rgb float32 [N, 3, 4, 4] -> boxes [N, 16, 4] (each its block) and scores [N, 16, K]."""
    cells = SIDE // STRIDE
    corners = np.arange(cells, dtype=np.float32) / cells
    y, x = np.meshgrid(corners, corners, indexing="ij")
    boxes = np.stack([x, y, x + 1 / cells, y + 1 / cells], -1).reshape(1, -1, 4)
    mix = np.zeros((3, classes), np.float32)
    mix[0, 0] = mix[2, 1] = 6.0
    mix[2, 0] = mix[0, 1] = -6.0
    nodes = [
        helper.make_node("Transpose", ["rgb"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "rows"], ["flat"]),
        helper.make_node("MatMul", ["flat", "mix"], ["mixed"]),
        helper.make_node("Add", ["mixed", "bias"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Shape", ["rgb"], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "box_shape"], ["wanted"], axis=0),
        helper.make_node("Expand", ["one_boxes", "wanted"], ["boxes"]),
    ]
    constants = {
        "rows": np.array([0, cells * cells, 3], np.int64),
        "mix": mix,
        "bias": np.full(classes, -2, np.float32),
        "one_boxes": boxes,
        "box_shape": np.array([cells * cells, 4], np.int64),
    }
    inputs = [helper.make_tensor_value_info("rgb", TensorProto.FLOAT, ["n", 3, cells, cells])]
    if told_state:
        inputs.append(helper.make_tensor_value_info("state", TensorProto.INT64, ["n"]))
        nodes.append(helper.make_node("Identity", ["state"], ["seen"]))
    outputs: dict[str, list[str | int]] = {
        "boxes": ["n", cells * cells, 4],
        "scores": ["n", cells * cells, classes],
    }
    return _model(nodes, constants, inputs, outputs)


def _tree(depth: int) -> PaletteTree:
    """Colours between -1 and 1: halves of the cube, along red, blue, green and again."""
    bits = (np.arange(2**depth)[:, None] >> np.arange(depth)[::-1]) & 1
    leaves = np.zeros((2**depth, 3))
    for split in range(depth):
        leaves[:, (0, 2, 1)[split % 3]] += (2 * bits[:, split] - 1) * 0.6 / 2 ** (split // 3)
    return PaletteTree.from_leaves(leaves, np.full(2**depth, 100))


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, np.ndarray],
    inputs: list[onnx.ValueInfoProto],
    outputs: dict[str, list[str | int]],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        inputs,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _npz(arrays: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()
