"""Mobile networks of inverted residuals, rewritten with their batch norms folded in.

Both come out under the same names, kernels OIHW float32:

    stem                        the first convolution
    blocks.K.expand             1x1 (absent where the block does not widen)
    blocks.K.depthwise
    blocks.K.squeeze, .excite   squeeze and excitation, where there is one
    blocks.K.project            1x1, linear
    last                        1x1 behind the blocks
    classifier                  the classes, where the network has them

each with ``.weight`` and ``.bias``; and ``blocks.K.project.deviation``, the standard deviation
that each output channel had in training: batch norm makes it the absolute value of its gamma.
"""

from __future__ import annotations

import io
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from cloud_server.models.graphdef import float_constants
from shared.errors import ModelError

Array = NDArray[np.float32]
Tensors = dict[str, Array]

_EPSILON = 1e-3
_SSD_ROOT = "FeatureExtractor/MobilenetV3"
_SSD_BLOCKS = 15
_LITE0_BLOCKS = 16


def ssd_mobilenetv3_backbone(data: bytes) -> Tensors:
    """MobileNetV3-Large (as the SSD has it) out of the frozen graph of ssd-mobilenetv3-coco.

    It takes RGB in -1..1. Raises ModelError(``damaged``).
    """
    constants = float_constants(data)
    tensors: Tensors = {}

    def get(name: str) -> Array:
        return _get(constants, f"{_SSD_ROOT}/{name}")

    def convolution(target: str, scope: str, kind: str = "weights") -> None:
        axes = (2, 3, 0, 1) if kind == "depthwise_weights" else (3, 2, 0, 1)
        kernel = get(f"{scope}/{kind}").transpose(axes)
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        gamma, beta, mean, variance = (get(f"{scope}/BatchNorm/{name}") for name in names)
        tensors.update(_folded(target, kernel, gamma, beta, mean, variance))

    def biased(target: str, scope: str) -> None:
        kernel = get(f"{scope}/weights").transpose(3, 2, 0, 1)
        tensors[f"{target}.weight"] = np.ascontiguousarray(kernel)
        tensors[f"{target}.bias"] = get(f"{scope}/biases")

    convolution("stem", "Conv")
    for number in range(_SSD_BLOCKS):
        block = "expanded_conv" + (f"_{number}" if number else "")
        if number:
            convolution(f"blocks.{number}.expand", f"{block}/expand")
        convolution(f"blocks.{number}.depthwise", f"{block}/depthwise", "depthwise_weights")
        if f"{_SSD_ROOT}/{block}/squeeze_excite/Conv/weights" in constants:
            biased(f"blocks.{number}.squeeze", f"{block}/squeeze_excite/Conv")
            biased(f"blocks.{number}.excite", f"{block}/squeeze_excite/Conv_1")
        convolution(f"blocks.{number}.project", f"{block}/project")
        gamma = get(f"{block}/project/BatchNorm/gamma")
        tensors[f"blocks.{number}.project.deviation"] = np.abs(gamma)
    convolution("last", "Conv_1")
    return tensors


def efficientnet_lite0(data: bytes) -> Tensors:
    """EfficientNet-Lite0 with its 1000 ImageNet classes, out of a torch checkpoint.

    It takes RGB as ``(x - 127) / 128`` of 0..255. Read by torch with ``weights_only=True``.
    Raises ModelError(``damaged``).
    """
    import torch

    try:
        loaded = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
        state = {str(key): value.numpy() for key, value in loaded.items()}
    except Exception as error:  # torch raises whatever its unpickler meets
        raise ModelError("damaged", f"EfficientNet-Lite0 cannot be read: {error}") from error
    tensors: Tensors = {}

    def convolution(target: str, scope: str, norm: str) -> Array:
        names = ("weight", "bias", "running_mean", "running_var")
        gamma, beta, mean, variance = (_get(state, f"{norm}.{name}") for name in names)
        kernel = _get(state, f"{scope}.weight")
        tensors.update(_folded(target, kernel, gamma, beta, mean, variance))
        return gamma

    convolution("stem", "_conv_stem", "_bn0")
    for number in range(_LITE0_BLOCKS):
        source, target = f"_blocks.{number}", f"blocks.{number}"
        if number:
            convolution(f"{target}.expand", f"{source}._expand_conv", f"{source}._bn0")
        convolution(f"{target}.depthwise", f"{source}._depthwise_conv", f"{source}._bn1")
        gamma = convolution(f"{target}.project", f"{source}._project_conv", f"{source}._bn2")
        tensors[f"{target}.project.deviation"] = np.abs(gamma)
    convolution("last", "_conv_head", "_bn1")
    for part in ("weight", "bias"):
        tensors[f"classifier.{part}"] = _get(state, f"_fc.{part}")
    return tensors


def _folded(
    target: str, kernel: Array, gamma: Array, beta: Array, mean: Array, variance: Array
) -> Tensors:
    """``gamma (conv(x) - mean) / sqrt(variance + epsilon) + beta`` as one convolution."""
    scale = gamma.astype(np.float64) / np.sqrt(variance.astype(np.float64) + _EPSILON)
    if kernel.ndim != 4 or len(kernel) != len(scale):
        raise ModelError("damaged", f"{target} has a kernel of shape {kernel.shape}")
    return {
        f"{target}.weight": np.ascontiguousarray(kernel * scale[:, None, None, None], np.float32),
        f"{target}.bias": (beta - mean * scale).astype(np.float32),
    }


def _get(values: Mapping[str, Array], name: str) -> Array:
    try:
        return values[name]
    except KeyError:
        raise ModelError("damaged", f"the network has no {name!r}") from None
