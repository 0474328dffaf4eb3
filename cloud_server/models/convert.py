"""Weights that come in unsafe or awkward containers, rewritten once as safetensors.

A converter maps the bytes of a verified archive member to ``{name: float32 array}``; the store
writes them with ``to_safetensors``, whose bytes depend on the tensors alone, so that the
catalogue can pin the SHA-256 of the result too.
"""

from __future__ import annotations

import io
import json
import pickle
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cloud_server.models.backbones import efficientnet_lite0, ssd_mobilenetv3_backbone
from cloud_server.models.vgg import dists_weights, hed_vgg16
from shared.errors import ModelError

Tensors = dict[str, NDArray[np.float32]]

# Where the fire modules of SqueezeNet 1.1 stand in torchvision's ``features``.
_FIRE_POSITIONS = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}


def squeezenet_from_pickle(data: bytes) -> Tensors:
    """SqueezeNet 1.1 of the ndf package, under torchvision's parameter names.

    Kernels become OIHW float32. The network was trained on BGR; the input channels of the first
    kernel are turned round here, so that it takes RGB: ``x = rgb_0_to_255 - (123.68, 116.779,
    103.939)``. Raises ModelError(``damaged``).
    """
    layers = _restricted_load(data)
    if not isinstance(layers, dict):
        raise ModelError("damaged", "the SqueezeNet weights are no dictionary of layers")
    tensors: Tensors = {}
    for name, values in layers.items():
        target = _squeezenet_name(str(name))
        if target is None or not isinstance(values, list) or len(values) != 2:
            raise ModelError("damaged", f"unexpected layer {name!r} in the SqueezeNet weights")
        kernel, bias = (np.asarray(value, dtype=np.float32) for value in values)
        if kernel.ndim != 4 or bias.shape != kernel.shape[3:]:
            raise ModelError("damaged", f"layer {name!r} has a kernel of shape {kernel.shape}")
        if target == "features.0":
            kernel = kernel[:, :, ::-1]
        tensors[f"{target}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        tensors[f"{target}.bias"] = np.ascontiguousarray(bias)
    return tensors


def lpips_head(data: bytes) -> Tensors:
    """The linear heads of LPIPS: ``linK.weight``, float32 [1, channels, 1, 1], K from 0.

    Read by torch with ``weights_only=True``. Raises ModelError(``damaged``).
    """
    import torch

    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler meets
        raise ModelError("damaged", f"the LPIPS heads cannot be read: {error}") from error
    return {
        key.replace(".model.1", ""): np.ascontiguousarray(value.numpy(), dtype=np.float32)
        for key, value in state.items()
    }


CONVERTERS: dict[str, Callable[[bytes], Tensors]] = {
    "squeezenet_pickle": squeezenet_from_pickle,
    "lpips_head": lpips_head,
    "hed_vgg16": hed_vgg16,
    "dists_weights": dists_weights,
    "ssd_mobilenetv3_backbone": ssd_mobilenetv3_backbone,
    "efficientnet_lite0": efficientnet_lite0,
}


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


def _squeezenet_name(name: str) -> str | None:
    """'fire2/squeeze1x1' as 'features.3.squeeze'; None for a name that is not of the network."""
    if name == "conv1":
        return "features.0"
    if name == "conv10":
        return "classifier.1"
    fire, _, part = name.partition("/")
    number = fire.removeprefix("fire")
    if not number.isdecimal() or int(number) not in _FIRE_POSITIONS:
        return None
    if part not in ("squeeze1x1", "expand1x1", "expand3x3"):
        return None
    part = part.replace("squeeze1x1", "squeeze")
    return f"features.{_FIRE_POSITIONS[int(number)]}.{part}"


class _ArraysOnly(pickle.Unpickler):
    """An unpickler that can build numpy arrays and plain containers, and nothing else."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy.core.multiarray", "_reconstruct"):
            return _new_array
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise ModelError("damaged", f"a weights file asks for {module}.{name}: refused")


def _new_array(kind: Any, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    # numpy's own _reconstruct moved between numpy 1 and 2; for ndarray it does exactly this.
    if kind is not np.ndarray or shape != (0,):
        raise ModelError("damaged", "a weights file builds something other than plain arrays")
    return np.ndarray.__new__(np.ndarray, shape, dtype)


def _restricted_load(data: bytes) -> Any:
    try:
        return _ArraysOnly(io.BytesIO(data), encoding="latin1").load()
    except ModelError:
        raise
    except Exception as error:  # a pickle machine fails in as many ways as there are opcodes
        raise ModelError("damaged", f"the weights cannot be read: {error}") from error
