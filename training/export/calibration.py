"""What the extractor's activations are like on real photos, for static quantisation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.networks.extractor import Extractor, ResidualBlock

FloatArray = npt.NDArray[np.float64]

UINT8_MAX = 255
_FLOAT = frozenset({"semantic", "texture", "semantic_linear", "texture_linear", "prediction"})
_SAMPLES_PER_PICTURE = 8192
_PATCHES_PER_PICTURE = 1024
_CANDIDATES = np.linspace(0.3, 1.0, 36)


@dataclass(frozen=True)
class Activation:
    """How one tensor is held in uint8: value = scale * (q - zero_point)."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class PatchMoments:
    """Mean [k] and covariance [k, k] of what a convolution multiplies its kernel with.

    k counts input channels, rows, columns of the kernel, in the order of the weight's axes.
    """

    mean: FloatArray
    covariance: FloatArray


@dataclass(frozen=True)
class Calibration:
    """By module name: how outputs are held, and what convolutions see of their inputs."""

    activations: dict[str, Activation]
    patches: dict[str, PatchMoments]


def calibrate(extractor: Extractor, pictures: Iterable[Tensor]) -> Calibration:
    """Run ``pictures`` ([1, 3, H, W] in -0.5..0.5) through and look at every activation.

    Activations of convolutions whose outputs go through a ReLU, and of residual blocks, are those
    after the ReLU; a block's ``second`` convolution is added to the block's input before its ReLU
    and keeps its sign. Ranges are the ones with the least squared error, of rounding and clipping
    together. Raises ValueError without pictures.
    """
    observers = {
        name: (_Observer(module, signed=name.endswith(".second")), module)
        for name, module in extractor.named_modules()
        if isinstance(module, nn.Conv2d | ResidualBlock) and name.split(".")[0] not in _FLOAT
    }
    hooks = [module.register_forward_hook(observer) for observer, module in observers.values()]
    try:
        with torch.inference_mode():
            for picture in pictures:
                extractor(picture)
    finally:
        for hook in hooks:
            hook.remove()
    return Calibration(
        {name: observer.activation() for name, (observer, _) in observers.items()},
        {
            name: observer.moments()
            for name, (observer, module) in observers.items()
            if isinstance(module, nn.Conv2d)
        },
    )


class _Observer:
    """A forward hook that keeps samples of a module's outputs and moments of its inputs."""

    def __init__(self, module: nn.Module, *, signed: bool) -> None:
        self._signed = signed
        self._samples: list[npt.NDArray[np.float32]] = []
        self._patches = 0
        size = 0
        if isinstance(module, nn.Conv2d):
            size = module.in_channels * module.kernel_size[0] * module.kernel_size[1]
        self._sum = torch.zeros(size, dtype=torch.float64)
        self._products = torch.zeros((size, size), dtype=torch.float64)
        self._random = torch.Generator().manual_seed(0)

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        values = (output if self._signed else output.relu()).reshape(-1)
        chosen = torch.randint(len(values), (_SAMPLES_PER_PICTURE,), generator=self._random)
        self._samples.append(values[chosen].numpy())
        if not isinstance(module, nn.Conv2d):
            return
        patches = nn.functional.unfold(
            inputs[0], module.kernel_size, padding=module.padding, stride=module.stride
        )[0]
        order = torch.randperm(patches.shape[1], generator=self._random)
        patches = patches[:, order[:_PATCHES_PER_PICTURE]]
        self._patches += patches.shape[1]
        self._sum += patches.double().sum(1)
        self._products += (patches @ patches.T).double()

    def activation(self) -> Activation:
        if not self._samples:
            raise ValueError("calibration needs at least one picture")
        values = np.concatenate(self._samples)
        lowest, highest = min(0.0, float(values.min())), max(1e-6, float(values.max()))
        best: tuple[float, Activation] | None = None
        for share in _CANDIDATES:
            scale = float(share) * (highest - lowest) / UINT8_MAX
            zero_point = round(-float(share) * lowest / scale)
            held = np.clip(np.rint(values / scale) + zero_point, 0, UINT8_MAX) - zero_point
            error = float(np.square(scale * held - values).mean())
            if best is None or error < best[0]:
                best = (error, Activation(scale, zero_point))
        assert best is not None
        return best[1]

    def moments(self) -> PatchMoments:
        mean = (self._sum / self._patches).numpy()
        return PatchMoments(mean, (self._products / self._patches).numpy() - np.outer(mean, mean))
