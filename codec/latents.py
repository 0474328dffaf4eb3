"""What codecs of features decode: quantised features, and how they go to another process."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.base import FloatArray
from shared.errors import BitstreamError

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
    without one, below 1 where a pass that has any position is still to come. grey: the photo had
    no colour.
    """

    scales: Mapping[str, FloatArray]
    state: int
    width: int
    height: int
    indices: Mapping[str, npt.NDArray[np.int32]] = field(default_factory=dict)
    depths: Mapping[str, npt.NDArray[np.uint8]] = field(default_factory=dict)
    progress: float = 0.0
    grey: bool = False

    @property
    def batch_key(self) -> Hashable:
        """The shape of every scale."""
        return tuple((name, array.shape) for name, array in sorted(self.scales.items()))

    @property
    def planes(self) -> frozenset[str]:
        """Names of the planes that were decoded: those of one chain."""
        return frozenset(self.indices)

    def checksum(self) -> bytes:
        """See :meth:`codec.base.Latents.checksum`."""
        digest = hashlib.sha256(repr((self.state, self.width, self.height)).encode())
        for name in sorted(self.indices):
            for grid in (self.indices[name], self.depths[name].astype(np.int32)):
                digest.update(repr((name, grid.shape)).encode())
                digest.update(np.ascontiguousarray(grid, "<i4").tobytes())
        return digest.digest()


@dataclass(frozen=True, slots=True)
class PackedLatents:
    """The parts of :class:`FeatureLatents` that cannot be had from each other.

    As bytes: a line of JSON, then the arrays that it names, in C order, little-endian.
    """

    state: int
    width: int
    height: int
    progress: float
    grey: bool
    indices: Mapping[str, npt.NDArray[np.int32]]
    depths: Mapping[str, npt.NDArray[np.uint8]]

    @classmethod
    def of(cls, latents: FeatureLatents) -> PackedLatents:
        """Those of some latents."""
        return cls(
            latents.state,
            latents.width,
            latents.height,
            latents.progress,
            latents.grey,
            latents.indices,
            latents.depths,
        )

    def to_bytes(self) -> bytes:
        """See above; :meth:`from_bytes` is the inverse."""
        rows: list[tuple[str, str, str, list[int]]] = []
        parts: list[bytes] = []
        for kind, arrays in (("indices", self.indices), ("depths", self.depths)):
            for name, array in arrays.items():
                dtype = "|u1" if kind == "depths" else _least(array)
                rows.append((kind, name, dtype, list(array.shape)))
                parts.append(np.ascontiguousarray(array, dtype).tobytes())
        head = [self.state, self.width, self.height, self.progress, self.grey, rows]
        return json.dumps(head).encode() + b"\n" + b"".join(parts)

    @classmethod
    def from_bytes(cls, data: bytes) -> PackedLatents:
        """Raises BitstreamError ``bad_latents`` on anything else."""
        head, _, rest = data.partition(b"\n")
        found: dict[str, dict[str, npt.NDArray[Any]]] = {"indices": {}, "depths": {}}
        try:
            state, width, height, progress, grey, rows = json.loads(head)
            offset = 0
            for kind, name, dtype, shape in rows:
                array = np.frombuffer(rest, _DTYPES[dtype], int(np.prod(shape)), offset)
                offset += array.nbytes
                wanted = np.uint8 if kind == "depths" else np.int32
                found[kind][name] = array.reshape(shape).astype(wanted)
            if offset != len(rest):
                raise ValueError(f"{len(rest) - offset} bytes too many")
            return cls(int(state), int(width), int(height), float(progress), bool(grey), **found)
        except (ValueError, TypeError, KeyError) as error:
            raise BitstreamError("bad_latents", f"no packed latents: {error}") from None


_DTYPES = {name: np.dtype(name) for name in ("|u1", "|i1", "<i2", "<i4")}


def _least(array: npt.NDArray[Any]) -> str:
    """The smallest type that holds the values."""
    low, high = int(array.min(initial=0)), int(array.max(initial=0))
    for name in ("|i1", "<i2"):
        bounds = np.iinfo(_DTYPES[name])
        if bounds.min <= low and high <= bounds.max:
            return name
    return "<i4"
