"""The constants of a frozen TensorFlow graph, read without TensorFlow.

Only the fields of tensorflow/core/framework/{graph,node_def,attr_value,tensor}.proto that hold
float constants are declared here; protobuf skips the rest.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from shared.errors import ModelError

_Field = descriptor_pb2.FieldDescriptorProto
_DT_FLOAT = 1
# Message: (field, number, scalar type or message, repeated)
_SCHEMA: dict[str, tuple[tuple[str, int, Any, bool], ...]] = {
    "Dim": (("size", 1, _Field.TYPE_INT64, False),),
    "Shape": (("dim", 2, "Dim", True),),
    "Tensor": (
        ("dtype", 1, _Field.TYPE_INT32, False),
        ("tensor_shape", 2, "Shape", False),
        ("tensor_content", 4, _Field.TYPE_BYTES, False),
        ("float_val", 5, _Field.TYPE_FLOAT, True),
    ),
    "AttrValue": (("tensor", 8, "Tensor", False),),
    "Attr": (("key", 1, _Field.TYPE_STRING, False), ("value", 2, "AttrValue", False)),
    "Node": (
        ("name", 1, _Field.TYPE_STRING, False),
        ("op", 2, _Field.TYPE_STRING, False),
        ("attr", 5, "Attr", True),
    ),
    "Graph": (("node", 1, "Node", True),),
}


def float_constants(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Every float32 ``Const`` node of a serialised GraphDef, by name.

    Raises ModelError(``damaged``) for bytes that are no graph, and for a constant whose values
    do not fill its shape.
    """
    try:
        graph = _graph_class().FromString(data)
    except DecodeError as error:
        raise ModelError("damaged", f"no TensorFlow graph: {error}") from error
    found: dict[str, NDArray[np.float32]] = {}
    for node in graph.node:
        if node.op != "Const":
            continue
        for attribute in node.attr:
            if attribute.key == "value" and attribute.value.tensor.dtype == _DT_FLOAT:
                found[node.name] = _array(node.name, attribute.value.tensor)
    return found


def _array(name: str, tensor: Any) -> NDArray[np.float32]:
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    try:
        if tensor.tensor_content:
            return np.frombuffer(tensor.tensor_content, "<f4").reshape(shape)
        values = np.asarray(tensor.float_val, np.float32)
        # One value stands for all (tensor.proto).
        return np.full(shape, values[0]) if values.size == 1 else values.reshape(shape)
    except (ValueError, IndexError, MemoryError) as error:
        raise ModelError("damaged", f"constant {name!r} does not fill {shape}") from error


@functools.cache
def _graph_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(
        name="featherwire/graphdef.proto", package="graphdef", syntax="proto3"
    )
    for message, fields in _SCHEMA.items():
        declared = file.message_type.add(name=message)
        for name, number, kind, repeated in fields:
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            field = declared.field.add(name=name, number=number, label=label)
            if isinstance(kind, str):
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".graphdef.{kind}"
            else:
                field.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("graphdef.Graph"))
