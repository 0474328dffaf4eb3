"""ONNX files, without the package that trainers have for them: padding that a convolution does by
itself, and small models of our own.

TensorFlow's networks pad more at the right and at the bottom than at the left and at the top, and
exporters write that as an operator of its own, before the convolution. ONNX Runtime then copies the
picture for it, and leaves the layout in which its convolutions are fast: a quarter of the time of
the packaged ``detect`` went there. Zeros around a picture are a convolution's own setting, so both
are the same numbers.

What the padding is need not be written in the file: exporters leave the operators that compute it.
They are run once, apart from the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from shared.proto.partial import Kind, PartialFormat, Schema

Evaluate = Callable[[bytes], Sequence[NDArray[Any]]]
"""The outputs of a serialised model without inputs."""

# As onnx.proto has it (https://onnx.ai/onnx/api/classes.html), where it is needed here.
_ONNX: Schema = {
    "Tensor": (
        ("dims", 1, Kind.TYPE_INT64, True),
        ("data_type", 2, Kind.TYPE_INT32, False),
        ("name", 8, Kind.TYPE_STRING, False),
        ("raw_data", 9, Kind.TYPE_BYTES, False),
    ),
    "Attribute": (
        ("name", 1, Kind.TYPE_STRING, False),
        ("s", 4, Kind.TYPE_BYTES, False),
        ("t", 5, "Tensor", False),
        ("g", 6, "Graph", False),
        ("ints", 8, Kind.TYPE_INT64, True),
        ("graphs", 11, "Graph", True),
        ("type", 20, Kind.TYPE_INT32, False),
    ),
    "Node": (
        ("input", 1, Kind.TYPE_STRING, True),
        ("output", 2, Kind.TYPE_STRING, True),
        ("op_type", 4, Kind.TYPE_STRING, False),
        ("attribute", 5, "Attribute", True),
        ("domain", 7, Kind.TYPE_STRING, False),
    ),
    "TensorType": (("elem_type", 1, Kind.TYPE_INT32, False),),
    "Type": (("tensor_type", 1, "TensorType", False),),
    "Value": (("name", 1, Kind.TYPE_STRING, False), ("type", 2, "Type", False)),
    "Graph": (
        ("node", 1, "Node", True),
        ("name", 2, Kind.TYPE_STRING, False),
        ("initializer", 5, "Tensor", True),
        ("input", 11, "Value", True),
        ("output", 12, "Value", True),
    ),
    "OperatorSet": (
        ("domain", 1, Kind.TYPE_STRING, False),
        ("version", 2, Kind.TYPE_INT64, False),
    ),
    "Model": (
        ("ir_version", 1, Kind.TYPE_INT64, False),
        ("graph", 7, "Graph", False),
        ("opset_import", 8, "OperatorSet", True),
    ),
}
_FORMAT = PartialFormat("onnx_parts", _ONNX, syntax="proto2")
_TYPES = {np.dtype(kind): number for kind, number in (
    (np.float32, 1), (np.uint8, 2), (np.int8, 3), (np.int32, 6), (np.int64, 7)
)}  # fmt: skip
"""``TensorProto.DataType``."""
_INTS = 7
"""``AttributeProto.INTS``."""
_IR_VERSION, _OPERATORS, _CONTRIBUTED = 8, 17, 1
_SIDES = 8
"""Numbers of a padding of [N, C, H, W]: four before, four after."""


def padded_by_convolutions(data: bytes, evaluate: Evaluate) -> bytes:
    """The model with every constant padding by zeros as a setting of the convolution after it.

    evaluate: runs a model without inputs. A model in which there is nothing to gain, or which it
    cannot run, and bytes that are none, come back as they are: whoever opens them says what is
    wrong.
    """
    try:
        model = _FORMAT.message("Model").FromString(data)
    except DecodeError:
        return data
    if _folds(model, evaluate) == 0:
        return data
    _drop_unused(model.graph)
    return bytes(model.SerializeToString())


def _folds(model: Any, evaluate: Evaluate) -> int:
    """Fold paddings into convolutions; returns how many."""
    graph = model.graph
    made = {name: node for node in graph.node for name in node.output if name}
    uses = Counter(name for node in graph.node for name in node.input)
    uses.update(value.name for value in graph.output)
    inner = any(part.HasField("g") or part.graphs for node in graph.node for part in node.attribute)
    if inner:  # which may use any value of ours by name
        return 0
    pairs = []
    for conv in graph.node:
        pad = made.get(conv.input[0]) if _is(conv, "Conv") and conv.input else None
        if pad is not None and _pads_by_zeros(pad) and uses[pad.output[0]] == 1:
            pairs.append((pad, conv))
    known = _constants(model, [pad.input[1] for pad, _ in pairs], made, evaluate)
    folded = 0
    for pad, conv in pairs:
        pads = known.get(pad.input[1])
        if pads is not None and _add_padding(conv, pads):
            conv.input[0] = pad.input[0]
            folded += 1
    return folded


def _is(node: Any, kind: str) -> bool:
    return node.op_type == kind and node.domain in ("", "ai.onnx")


def _pads_by_zeros(node: Any) -> bool:
    """Whether it pads all axes, by an input, with the value that is the default: zero."""
    if not _is(node, "Pad") or len(node.input) < 2:
        return False
    modes = [part.s for part in node.attribute if part.name == "mode"]
    return modes in ([], [b"constant"]) and not any(node.input[2:])


def _constants(
    model: Any, names: Iterable[str], made: dict[str, Any], evaluate: Evaluate
) -> dict[str, list[int]]:
    """What these values (int64 [8]) are, where no input of the model has a say in it."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    given = {value.name for value in model.graph.input} - set(stored)
    wanted: dict[str, None] = {}
    kept: dict[str, None] = {}
    for name in names:
        needed = _needs(name, made)
        if needed.isdisjoint(given) and needed <= made.keys() | stored.keys():
            wanted[name] = None
            kept |= dict.fromkeys(needed)
    if not wanted:
        return {}
    part = type(model)()
    part.CopyFrom(model)
    for field in ("node", "initializer", "input", "output"):
        part.graph.ClearField(field)
    part.graph.node.extend(n for n in model.graph.node if any(name in kept for name in n.output))
    part.graph.initializer.extend(stored[name] for name in kept if name in stored)
    for name in wanted:
        output = part.graph.output.add(name=name)
        output.type.tensor_type.elem_type = _TYPES[np.dtype(np.int64)]
    try:
        values = evaluate(part.SerializeToString())
    except Exception:  # noqa: BLE001  a runtime's own; the model as a whole may do all the same
        return {}
    return {
        name: [int(number) for number in value.ravel()]
        for name, value in zip(wanted, values, strict=True)
    }


def _needs(name: str, made: dict[str, Any]) -> set[str]:
    """The value, and all that it is computed from, by name."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        here = waiting.pop()
        if here and here not in found:
            found.add(here)
            waiting.extend(made[here].input if here in made else ())
    return found


def _add_padding(conv: Any, pads: list[int]) -> bool:
    """Let a convolution of pictures pad by that much more; returns whether it can."""
    if len(pads) != _SIDES or min(pads) < 0 or any(pads[:2]) or any(pads[4:6]):
        return False
    settings = {part.name: part for part in conv.attribute}
    if "auto_pad" in settings and settings["auto_pad"].s != b"NOTSET":
        return False
    own = settings.get("pads")
    more = [*pads[2:4], *pads[6:8]]
    if own is None:
        own = conv.attribute.add(name="pads", type=_INTS)
        own.ints.extend(more)
    else:
        if len(own.ints) != len(more):
            return False
        own.ints[:] = [int(a) + b for a, b in zip(own.ints, more, strict=True)]
    return True


def _drop_unused(graph: Any) -> None:
    """Take out operators whose outputs nobody uses any more."""
    while True:
        used = {name for node in graph.node for name in node.input}
        used |= {value.name for value in graph.output}
        kept = [node for node in graph.node if used.intersection(node.output)]
        if len(kept) == len(graph.node):
            return
        copies = [type(node).FromString(node.SerializeToString()) for node in kept]
        graph.ClearField("node")
        graph.node.extend(copies)


class Builder:
    """A small model, operator by operator."""

    def __init__(self, name: str) -> None:
        self._model = _FORMAT.message("Model")(ir_version=_IR_VERSION)
        self._model.opset_import.add(domain="", version=_OPERATORS)
        self._model.graph.name = name

    def stored(self, name: str, values: NDArray[Any]) -> None:
        """A tensor that is in the file: float32, uint8, int8, int32 or int64."""
        self._model.graph.initializer.add(
            name=name,
            dims=values.shape,
            data_type=_TYPES[values.dtype],
            raw_data=values.astype(values.dtype.newbyteorder("<")).tobytes(),
        )

    def node(self, kind: str, inputs: Sequence[str], output: str, *, domain: str = "") -> None:
        """An operator with one output. domain: of those that ONNX does not have."""
        self._model.graph.node.add(op_type=kind, input=inputs, output=[output], domain=domain)
        known = {opset.domain for opset in self._model.opset_import}
        if domain not in known:
            self._model.opset_import.add(domain=domain, version=_CONTRIBUTED)

    def model(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> bytes:
        """The file. inputs, outputs: their types, as numpy has them; of any shape."""
        graph = self._model.graph
        for values, part in ((inputs, graph.input), (outputs, graph.output)):
            for name, kind in values.items():
                part.add(name=name).type.tensor_type.elem_type = _TYPES[np.dtype(kind)]
        return bytes(self._model.SerializeToString())
