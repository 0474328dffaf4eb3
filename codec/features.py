"""Features: what a network says of a photo, on one grid a scale, and what is decoded of it."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from codec.base import FloatArray

Features = Mapping[str, FloatArray]
"""float32 [C, h, w] a scale."""


@dataclass(frozen=True, slots=True, eq=False)
class FeatureLatents:
    """Quantised features per scale (float32 [C, h, w]) at ``state``.

    state: the finest complete state. width, height: of the picture before padding, in pixels.
    indices: the integers that were decoded, by plane: int32 [h, w] of a palette, nodes at
    ``depths``; int32 [C, h, w] of a lattice, whole steps. depths: uint8 [h, w] a plane, how deep
    each position is described: that of the state, or greater where a partial layer refines it.
    progress: how much of the way to the next finer state the partial layer's passes cover, 0
    without one, below 1.
    """

    scales: Mapping[str, FloatArray]
    state: int
    width: int
    height: int
    indices: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    depths: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    progress: float = 0.0

    @property
    def batch_key(self) -> Hashable:
        """The shape of every scale."""
        return tuple((name, array.shape) for name, array in sorted(self.scales.items()))

    def checksum(self) -> bytes:
        """See :meth:`codec.base.Latents.checksum`."""
        digest = hashlib.sha256(repr((self.state, self.width, self.height)).encode())
        for name in sorted(self.indices):
            for grid in (self.indices[name], self.depths[name].astype(np.int32)):
                digest.update(repr((name, grid.shape)).encode())
                digest.update(np.ascontiguousarray(grid, "<i4").tobytes())
        return digest.digest()
