"""Descriptors of a picture's patches, and the textures that they fall into.

The magnitudes of the Fourier transform of each feature map, patch by patch: shifts and mirroring
only turn phases, so that what stays is which structures a patch has, not where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from training.fit.bisect import nearest
from training.fit.features.backbone import Backbone
from training.fit.features.classifier import SHAPE
from training.fit.labels import PatchGrid

TAPS = (2, 4, 10)
"""EfficientNet-Lite0's stages at strides 4, 8 and 16: 24, 40 and 112 channels."""
STRIDES = (4, 8, 16)
Arrays = dict[str, npt.NDArray[np.generic]]


class PatchDescriptors(nn.Module):
    """Log-magnitudes of the transformed feature maps of every patch, a tensor per stage."""

    window: Tensor

    def __init__(self, tensors: Mapping[str, Tensor], grid: PatchGrid) -> None:
        """tensors: the model store's ``efficientnet-lite0``."""
        super().__init__()
        if grid.window % max(STRIDES) or grid.step % max(STRIDES):
            raise ValueError(f"windows and steps are multiples of {max(STRIDES)} pixels")
        self.grid = grid
        self.backbone = Backbone(tensors, SHAPE)
        self.gains = nn.ParameterList(
            nn.Parameter(1 / deviation, requires_grad=False)
            for deviation in self.backbone.deviations(TAPS)
        )

    @torch.no_grad()
    def forward(self, picture: Tensor) -> list[Tensor]:
        """[1, 3, h, w] in -0.5..0.5 -> float32 [rows * columns, dimensions] per stage.

        Patches are in row-major order, as many as :meth:`PatchGrid.shape` says.
        """
        rows, columns = self.grid.shape(*picture.shape[2:])
        found = []
        for stride, gain, feature in zip(
            STRIDES, self.gains, self.backbone(picture, TAPS), strict=True
        ):
            side, step = self.grid.window // stride, self.grid.step // stride
            patches = (feature[0] * gain[:, None, None]).unfold(1, side, step)
            patches = patches.unfold(2, side, step)[:, :rows, :columns]
            found.append(_magnitudes(patches).permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1))
        return found


def _magnitudes(patches: Tensor) -> Tensor:
    """[..., side, side] -> log(1 + |F|), [..., side // 2 + 1, side // 2 + 1].

    The magnitudes of a real patch are point-symmetric; those of (u, v) and (-u, v), which
    mirroring exchanges, are averaged, so that one quadrant has everything.
    """
    side = patches.shape[-1]
    half = side // 2 + 1
    magnitudes = torch.log1p(torch.fft.rfft2(patches, norm="ortho").abs())
    mirrored = magnitudes.roll(-1, dims=-2).flip(-2)
    return 0.5 * (magnitudes + mirrored)[..., :half, :]


@dataclass(frozen=True)
class TextureModel:
    """Descriptors' means, principal axes per stage, and the centres of the textures."""

    grid: PatchGrid
    means: tuple[Tensor, ...]
    axes: tuple[Tensor, ...]
    """Per stage [dimensions, components]: standardises, projects, and gives stages one weight."""
    centres: Tensor
    """[textures, components of all stages]"""

    def project(self, descriptors: list[Tensor]) -> Tensor:
        """Per stage [n, dimensions] -> [n, components of all stages]."""
        parts = zip(descriptors, self.means, self.axes, strict=True)
        return torch.cat([(values - mean) @ axes for values, mean, axes in parts], 1)

    def labels(self, descriptors: list[Tensor]) -> Tensor:
        """The number of each patch's texture, int64 [n]."""
        return nearest(self.project(descriptors), self.centres)

    def to_arrays(self) -> Arrays:
        """For :func:`numpy.savez`; :meth:`from_arrays` is the inverse."""
        arrays: Arrays = {
            "window": np.int64(self.grid.window),  # type: ignore[dict-item]
            "step": np.int64(self.grid.step),  # type: ignore[dict-item]
            "centres": self.centres.numpy(),
        }
        for stage, (mean, axes) in enumerate(zip(self.means, self.axes, strict=True)):
            arrays |= {f"mean_{stage}": mean.numpy(), f"axes_{stage}": axes.numpy()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.NDArray[np.generic]]) -> TextureModel:
        """Rebuild from :meth:`to_arrays`'s values. Raises KeyError."""

        def stages(name: str) -> tuple[Tensor, ...]:
            return tuple(torch.from_numpy(arrays[f"{name}_{k}"]) for k in range(len(TAPS)))

        return cls(
            PatchGrid(int(cast(int, arrays["window"])), int(cast(int, arrays["step"]))),
            stages("mean"),
            stages("axes"),
            torch.from_numpy(arrays["centres"]),
        )


def principal_axes(sample: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """(mean [d], axes [d, components]) of standardised dimensions.

    sample: float32 [n, d]. What the axes project to has a total variance of 1, and along each
    axis the square root of what it had: contrast, by far the strongest, does not decide alone.
    Signs are fixed (the largest entry of each axis is positive), so that the same sample gives
    the same axes.
    """
    mean, deviation = sample.mean(0), sample.std(0).clamp_min(1e-6)
    standard = (sample - mean) / deviation
    covariance = standard.T @ standard / len(sample)
    values, vectors = torch.linalg.eigh(covariance.double())
    chosen = vectors[:, -components:].flip(1)
    largest = chosen.abs().argmax(0)
    chosen = chosen * chosen[largest, torch.arange(chosen.shape[1])].sign()
    spread = values[-components:].flip(0).clamp_min(1e-12).sqrt()
    chosen = chosen / (spread * spread.sum()).sqrt()
    return mean, chosen.float() / deviation[:, None]
