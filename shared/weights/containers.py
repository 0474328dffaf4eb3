"""Files that hold weights, read and written with numpy alone.

Pickles and PyTorch's checkpoints are read by an unpickler that builds arrays and plain containers,
and nothing else; frozen TensorFlow graphs by protobuf; safetensors are written.
"""

from __future__ import annotations

import io
import json
import math
import pickle
import struct
from collections import OrderedDict
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from shared.errors import ModelError
from shared.proto.partial import Kind, PartialFormat, Schema

Tensors = dict[str, NDArray[np.float32]]

_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_PROTOCOL = 1001
# PyTorch's classes of storages that checkpoints of networks have, by name.
_STORAGE_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
}

_DT_FLOAT = 1
_GRAPH_DEF: Schema = {
    "Dim": (("size", 1, Kind.TYPE_INT64, False),),
    "Shape": (("dim", 2, "Dim", True),),
    "Tensor": (
        ("dtype", 1, Kind.TYPE_INT32, False),
        ("tensor_shape", 2, "Shape", False),
        ("tensor_content", 4, Kind.TYPE_BYTES, False),
        ("float_val", 5, Kind.TYPE_FLOAT, True),
    ),
    "AttrValue": (("tensor", 8, "Tensor", False),),
    "Attr": (("key", 1, Kind.TYPE_STRING, False), ("value", 2, "AttrValue", False)),
    "Node": (
        ("name", 1, Kind.TYPE_STRING, False),
        ("op", 2, Kind.TYPE_STRING, False),
        ("attr", 5, "Attr", True),
    ),
    "Graph": (("node", 1, "Node", True),),
}
_TENSORFLOW = PartialFormat("graphdef", _GRAPH_DEF)


def read_pickle(data: bytes) -> Any:
    """A pickle of numpy arrays, lists, dictionaries, texts and numbers.

    Raises ModelError(``damaged``), also for a pickle that asks for anything else.
    """
    return _Arrays(io.BytesIO(data)).read()


def read_torch(data: bytes) -> dict[str, NDArray[Any]]:
    """A checkpoint of PyTorch in the form it had before 1.6: tensors by name, on the CPU.

    The file is five pickles (magic number, version, platform, the object, the storages' keys) and
    the storages' values, as ``torch/serialization.py`` has it in ``_legacy_save``. Raises
    ModelError(``damaged``).
    """
    stream = io.BytesIO(data)
    checkpoint = _Checkpoint(stream, len(data))
    head = [_Arrays(stream).read() for _ in range(2)]
    if head != [_TORCH_MAGIC, _TORCH_PROTOCOL]:
        raise ModelError("damaged", "this is no PyTorch checkpoint of before 1.6")
    platform = _Arrays(stream).read()
    if not isinstance(platform, dict) or platform.get("little_endian") is not True:
        raise ModelError("damaged", "the PyTorch checkpoint is not of a little-endian machine")
    found = checkpoint.read()
    keys = _Arrays(stream).read()
    checkpoint.fill(keys)
    if not isinstance(found, dict) or not all(
        isinstance(key, str) and isinstance(value, np.ndarray) for key, value in found.items()
    ):
        raise ModelError("damaged", "the PyTorch checkpoint is no dictionary of tensors")
    return found


def float_constants(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Every float32 ``Const`` node of a serialised GraphDef, by name.

    Raises ModelError(``damaged``) for bytes that are no graph, and for a constant whose values
    do not fill its shape.
    """
    try:
        graph = _TENSORFLOW.message("Graph").FromString(data)
    except DecodeError as error:
        raise ModelError("damaged", f"no TensorFlow graph: {error}") from error
    found: dict[str, NDArray[np.float32]] = {}
    for node in graph.node:
        if node.op != "Const":
            continue
        for attribute in node.attr:
            if attribute.key == "value" and attribute.value.tensor.dtype == _DT_FLOAT:
                found[node.name] = _constant(node.name, attribute.value.tensor)
    return found


def to_safetensors(tensors: Tensors) -> bytes:
    """float32 tensors in the safetensors format, always the same bytes for the same tensors.

    Names are sorted and the header is padded with spaces to a multiple of 8 bytes
    (https://github.com/huggingface/safetensors, "Format").
    """
    header: dict[str, Any] = {}
    blobs: list[bytes] = []
    offset = 0
    for name in sorted(tensors):
        blob = tensors[name].astype("<f4").tobytes()
        header[name] = {
            "dtype": "F32",
            "shape": list(tensors[name].shape),
            "data_offsets": [offset, offset + len(blob)],
        }
        blobs.append(blob)
        offset += len(blob)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text + b"".join(blobs)


class _Arrays(pickle.Unpickler):
    """An unpickler that can build numpy arrays and plain containers, and nothing else."""

    known: dict[tuple[str, str], Any]

    def __init__(self, stream: io.BytesIO) -> None:
        super().__init__(stream, encoding="latin1")
        self.known = {
            ("numpy.core.multiarray", "_reconstruct"): _new_array,
            ("numpy", "ndarray"): np.ndarray,
            ("numpy", "dtype"): np.dtype,
        }

    def find_class(self, module: str, name: str) -> Any:
        try:
            return self.known[module, name]
        except KeyError:
            raise ModelError(
                "damaged", f"a weights file asks for {module}.{name}: refused"
            ) from None

    def read(self) -> Any:
        """The next object. Raises ModelError(``damaged``)."""
        try:
            return self.load()
        except ModelError:
            raise
        except Exception as error:  # a pickle machine fails in as many ways as there are opcodes
            raise ModelError("damaged", f"the weights cannot be read: {error}") from error


class _Checkpoint(_Arrays):
    """The object of a checkpoint: its tensors are views of storages, whose values come later."""

    def __init__(self, stream: io.BytesIO, file_bytes: int) -> None:
        super().__init__(stream)
        self._stream = stream
        self._room_bytes = file_bytes
        self._storages: dict[str, NDArray[Any]] = {}
        self.known = {
            ("collections", "OrderedDict"): OrderedDict,
            ("torch._utils", "_rebuild_tensor_v2"): _tensor,
            ("torch._utils", "_rebuild_parameter"): _parameter,
            **{("torch", name): np.dtype(dtype) for name, dtype in _STORAGE_DTYPES.items()},
        }

    def persistent_load(self, pid: Any) -> NDArray[Any]:
        """A storage: ``("storage", class, key, location, values, view)``."""
        kind, dtype, key, _, count, view = pid
        if kind != "storage" or not isinstance(dtype, np.dtype) or view is not None:
            raise ModelError("damaged", "a weights file holds storages of an unknown kind")
        if key not in self._storages:
            self._room_bytes -= count * dtype.itemsize
            if count < 0 or self._room_bytes < 0:
                raise ModelError("damaged", "a weights file promises more values than it has")
            self._storages[key] = np.zeros(count, dtype)
        return self._storages[key]

    def fill(self, keys: Any) -> None:
        """Read the storages' values, in the order of ``keys``; each with its count before it."""
        if not isinstance(keys, list) or sorted(map(repr, keys)) != sorted(
            map(repr, self._storages)
        ):
            raise ModelError("damaged", "a weights file does not hold the values of its tensors")
        for key in keys:
            storage = self._storages[key]
            head = self._stream.read(8)
            count = int.from_bytes(head, "little", signed=True)
            values = self._stream.read(storage.nbytes)
            # Of a last tensor without values the count is all that there is to be missed.
            if len(head) < 8 or count != len(storage) or len(values) != storage.nbytes:
                raise ModelError("damaged", "a weights file ends early")
            storage[:] = np.frombuffer(values, storage.dtype)


def _new_array(kind: Any, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    # numpy's own _reconstruct moved between numpy 1 and 2; for ndarray it does exactly this.
    if kind is not np.ndarray or shape != (0,):
        raise ModelError("damaged", "a weights file builds something other than plain arrays")
    return np.ndarray.__new__(np.ndarray, shape, dtype)


def _tensor(
    storage: NDArray[Any], offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any
) -> NDArray[Any]:
    """A view of a storage, after ``torch._utils._rebuild_tensor_v2``; counts are of values."""
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if (
        min((offset, *size, *stride)) < 0
        or count > len(storage)
        or (count and last >= len(storage))
    ):
        raise ModelError("damaged", "a tensor reaches beyond its storage")
    steps = [step * storage.itemsize for step in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], size, steps)


def _parameter(tensor: NDArray[Any], *_: Any) -> NDArray[Any]:
    return tensor


def _constant(name: str, tensor: Any) -> NDArray[np.float32]:
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    try:
        if tensor.tensor_content:
            return np.frombuffer(tensor.tensor_content, "<f4").reshape(shape)
        values = np.asarray(tensor.float_val, np.float32)
        # One value stands for all (tensor.proto).
        return np.full(shape, values[0]) if values.size == 1 else values.reshape(shape)
    except (ValueError, IndexError, MemoryError) as error:
        raise ModelError("damaged", f"constant {name!r} does not fill {shape}") from error
