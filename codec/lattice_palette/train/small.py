"""A small seeded bundle with real files of every kind, for tests that need no trained weights.

Its extractor averages blocks of 16 pixels of a picture brought to 64 by 64; its tail calls every
position a box, whose scores are how red and how blue it is. Two chains: states 0 to 2, and 3.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from codec.lattice_palette.context_network import PAST_TAPS, GroupNetwork
from codec.lattice_palette.contexts import LatticeContexts, symbol_tables
from codec.lattice_palette.nested.contexts import NestedContexts
from codec.lattice_palette.nested.palette import NestedPalette
from codec.lattice_palette.palette import LatticePalette, LatticePlane
from codec.lattice_palette.train.contexts import bent_values
from codec.lattice_palette.train.lattices import ORDERS
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

SCALE: Final = "rgb"
SIDE, STRIDE, CHANNELS = 64, 16, 3
STEPS = (0.05, 0.2)
"""Of both chains' lattices."""
LIMIT: Final = 30
_HIDDEN, _WIDTH = 6, 5


def small_bundle(folder: Path) -> Bundle:
    """The bundle ``small-lattice``; see :func:`codec.base.small_bundle`."""
    palettes = [
        _palette(0, (1, 2), STEPS[0], "two-level", ((1, 1), (1, 0), (1, 0))),
        _palette(1, (3,), STEPS[1], "checkerboard", ((1,),)),
    ]
    contexts = [_contexts(palette, seed) for seed, palette in enumerate(palettes)]
    return small_parts(folder, "small-lattice", palettes, contexts)


def small_parts(
    folder: Path,
    name: str,
    palettes: Sequence[LatticePalette | NestedPalette],
    contexts: Sequence[LatticeContexts | NestedContexts],
) -> Bundle:
    """Write a bundle of this extractor and this tail, with palettes and contexts of each chain."""
    settings = FeatureSettings(
        scales=(ScaleSpec(name=SCALE, stride=STRIDE, channels=CHANNELS),),
        planes=tuple(spec for palette in palettes for spec in palette.specs),
        states=tuple(state for palette in palettes for state in palette.states),
        chains=tuple(ChainSpec(planes=len(p.specs), states=len(p.states)) for p in palettes),
        input_multiple=STRIDE,
        halo_positions=0,
        resize=ResizeSpec(width=SIDE, height=SIDE),
        tails=(
            TailSpec(
                task="detection",
                output="boxes",
                classes=(TailClass(id=1, name="red"), TailClass(id=2, name="blue")),
                model=TailModel(name="blocks", version="1", licence="Apache-2.0"),
            ),
        ),
    )
    manifest = settings.manifest(name=name, version="1", codec="lattice-palette")
    files = {
        "palette.npz": _npz([palette.to_arrays() for palette in palettes]),
        "contexts.npz": _npz([one.to_arrays() for one in contexts]),
        "extractor.onnx": _extractor(),
        "tail.onnx": _tail(),
    }
    return create_bundle(folder, manifest, files)


def _palette(
    chain: int, groups: tuple[int, ...], step: float, order: str, rows: tuple[tuple[int, ...], ...]
) -> LatticePalette:
    planes, first = [], 0
    for number, size in enumerate(groups):
        spec = PlaneSpec(
            name=f"{SCALE}_{chain}_{number}",
            scale=SCALE,
            first_channel=first,
            channels=size,
            depth=1,
        )
        limits = np.full(size, int(1.2 / step), np.int16)
        planes.append(LatticePlane(spec, step, limits, np.zeros(size, np.float32)))
        first += size
    states = tuple(
        DiffusionState(state=3 * chain + row, depths=depths, typical_bits_per_pixel=0.1 / (1 + row))
        for row, depths in enumerate(rows)
    )
    return LatticePalette(planes, states, np.array(ORDERS[order], np.uint8))


def _contexts(palette: LatticePalette, seed: int) -> LatticeContexts:
    rng = np.random.default_rng(seed)

    def weights(*shape: int) -> npt.NDArray[np.int16]:
        return rng.integers(-9, 10, shape).astype(np.int16)

    def biases(*shape: int) -> npt.NDArray[np.int32]:
        return rng.integers(-300, 301, shape).astype(np.int32)

    networks, before = {}, 0
    for spec in palette.specs:
        networks[spec.name] = GroupNetwork(
            past=weights(PAST_TAPS * before, _HIDDEN),
            own=weights(palette.phases, 25 * spec.channels, _HIDDEN),
            bias=biases(palette.phases, _HIDDEN),
            middle=weights(_HIDDEN, _WIDTH),
            middle_bias=biases(_WIDTH),
            out=weights(_WIDTH, 2 * spec.channels),
            # Scales in the middle of the table's.
            out_bias=np.repeat(np.array([0, 20 << 6], np.int32), spec.channels),
            shifts=np.array([4, 4, 6], np.int32),
        )
        before += spec.channels
    return LatticeContexts(palette, networks, symbol_tables(LIMIT), bent_values(LIMIT))


def _extractor() -> bytes:
    """image uint8 [64, 64, 3] -> rgb float32 [3, 4, 4], -1 to 1."""
    block = [STRIDE, STRIDE]
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planar"], perm=[2, 0, 1]),
        helper.make_node("Unsqueeze", ["planar", "zero"], ["batch"]),
        helper.make_node("AveragePool", ["batch"], ["mean"], kernel_shape=block, strides=block),
        helper.make_node("Squeeze", ["mean", "zero"], ["single"]),
        helper.make_node("Div", ["single", "half"], ["scaled"]),
        helper.make_node("Sub", ["scaled", "one"], [SCALE]),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "zero": np.array([0], np.int64),
        "half": np.array(127.5, np.float32),
        "one": np.array(1.0, np.float32),
    }
    inputs = [helper.make_tensor_value_info("image", TensorProto.UINT8, ["h", "w", 3])]
    return _model(nodes, constants, inputs, {SCALE: [3, "rows", "columns"]})


def _tail() -> bytes:
    """rgb float32 [N, 3, 4, 4] -> boxes [N, 16, 4] (each its block) and scores [N, 16, 2]."""
    cells = SIDE // STRIDE
    corners = np.arange(cells, dtype=np.float32) / cells
    y, x = np.meshgrid(corners, corners, indexing="ij")
    boxes = np.stack([x, y, x + 1 / cells, y + 1 / cells], -1).reshape(1, -1, 4)
    mix = np.array([[6, -6], [0, 0], [-6, 6]], np.float32)
    nodes = [
        helper.make_node("Transpose", [SCALE], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "rows"], ["flat"]),
        helper.make_node("MatMul", ["flat", "mix"], ["logits"]),
        helper.make_node("Sigmoid", ["logits"], ["scores"]),
        helper.make_node("Shape", [SCALE], ["batch"], start=0, end=1),
        helper.make_node("Concat", ["batch", "box_shape"], ["wanted"], axis=0),
        helper.make_node("Expand", ["one_boxes", "wanted"], ["boxes"]),
    ]
    constants: dict[str, npt.NDArray[Any]] = {
        "rows": np.array([0, cells * cells, 3], np.int64),
        "mix": mix,
        "one_boxes": boxes,
        "box_shape": np.array([cells * cells, 4], np.int64),
    }
    inputs = [helper.make_tensor_value_info(SCALE, TensorProto.FLOAT, ["n", 3, cells, cells])]
    outputs: dict[str, list[Any]] = {
        "boxes": ["n", cells * cells, 4],
        "scores": ["n", cells * cells, 2],
    }
    return _model(nodes, constants, inputs, outputs)


def _model(
    nodes: list[onnx.NodeProto],
    constants: dict[str, npt.NDArray[Any]],
    inputs: list[onnx.ValueInfoProto],
    outputs: dict[str, list[Any]],
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "small",
        inputs,
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _npz(parts: list[dict[str, npt.NDArray[np.generic]]]) -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {name: values for part in parts for name, values in part.items()}
    np.savez(buffer, **arrays)
    return buffer.getvalue()
