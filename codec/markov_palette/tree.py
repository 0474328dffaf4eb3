"""One plane's tree of palettes: 2**depth leaf colours that merge in pairs down to one.

Colours are integers on a grid of ``2**-exponent``, so that the entropy coder's contexts, which
are computed from them, are the same on every machine. The nodes of all depths lie in one array
in heap order: node ``k`` of depth ``d`` is row ``2**d - 1 + k``, its children are the nodes
``2k`` and ``2k + 1`` of depth ``d + 1``. A merge map is therefore a shift by one bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.settings import MAX_CHANNELS, MAX_DEPTH
from shared.errors import BundleError

Int16Array = npt.NDArray[np.int16]
IndexArray = npt.NDArray[np.int32]
FloatArray = npt.NDArray[np.float32]

_SEARCH_ROWS = 16384


@dataclass(frozen=True, slots=True, eq=False)
class PaletteTree:
    """A complete binary tree of colours.

    nodes: int16 [2**(depth+1) - 1, channels], heap order. counts: uint32 [2**depth], how many
    training vectors each leaf stands for. exponent: a colour's value is ``node * 2**-exponent``.
    rate_weights: the squared error that one bit was worth at every split when the tree was made
    (the lambda of entropy-constrained quantisation); none when it was made for nearest leaves.
    """

    nodes: Int16Array
    counts: npt.NDArray[np.uint32]
    exponent: int
    rate_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        rows = self.nodes.shape[0] + 1 if self.nodes.ndim == 2 else 0
        depth = rows.bit_length() - 2
        if (
            self.nodes.dtype != np.int16
            or not 1 <= depth <= MAX_DEPTH
            or rows != 2 ** (depth + 1)
            or not 1 <= self.nodes.shape[1] <= MAX_CHANNELS
        ):
            raise BundleError(
                "bad_palette",
                f"palette nodes must be int16 [2**(depth+1)-1, channels], "
                f"got {self.nodes.dtype} {list(self.nodes.shape)}",
            )
        if self.counts.dtype != np.uint32 or self.counts.shape != (2**depth,):
            raise BundleError("bad_palette", f"palette counts must be uint32 [{2**depth}]")
        if not -32 <= self.exponent <= 32:
            raise BundleError("bad_palette", f"palette exponent {self.exponent} is out of range")
        weights = np.asarray(self.rate_weights, np.float64)
        if (
            weights.shape not in ((0,), (depth,))
            or not (weights >= 0).all() & (weights < 1e9).all()
        ):
            raise BundleError(
                "bad_palette", "rate weights must be numbers of 0 or more, one a split"
            )

    @classmethod
    def from_leaves(
        cls,
        leaves: npt.NDArray[np.floating[Any]],
        counts: npt.NDArray[np.integer[Any]],
        rate_weights: Sequence[float] = (),
    ) -> PaletteTree:
        """Build the tree above ``leaves`` (float [2**depth, channels]) weighted by ``counts``.

        Each parent is the count-weighted mean of the two colours it merges; a leaf that no
        vector chose weighs next to nothing. The grid is the finest that fits 13 bits.
        """
        means, weights = [np.asarray(leaves, np.float64)], [np.maximum(counts, 1e-6)]
        while len(means[0]) > 1:
            pair = means[0].reshape(-1, 2, means[0].shape[1])
            weight = weights[0].reshape(-1, 2, 1)
            means.insert(0, (pair * weight).sum(1) / weight.sum(1))
            weights.insert(0, weight.sum((1, 2)))
        heap = np.concatenate(means)
        largest = float(np.abs(heap).max(initial=0.0))
        exponent = int(np.floor(np.log2(4095.0 / largest))) if largest > 0 else 0
        nodes = np.round(heap * 2.0**exponent).astype(np.int16)
        return cls(nodes, np.asarray(counts).astype(np.uint32), exponent, tuple(rate_weights))

    @property
    def depth(self) -> int:
        """Levels of splits: there are ``2**depth`` leaves."""
        return (self.nodes.shape[0] + 1).bit_length() - 2

    @property
    def channels(self) -> int:
        """Length of one colour vector."""
        return int(self.nodes.shape[1])

    def integer_colours(self, depth: int) -> Int16Array:
        """The palette at ``depth`` on the integer grid: int16 [2**depth, channels]."""
        return self.nodes[2**depth - 1 : 2 ** (depth + 1) - 1]

    def colours(self, depth: int) -> FloatArray:
        """The palette at ``depth``: float32 [2**depth, channels]."""
        scale = np.float32(2.0**-self.exponent)
        return self.integer_colours(depth).astype(np.float32) * scale

    def node_colours(self, nodes: IndexArray, depths: npt.NDArray[np.uint8]) -> FloatArray:
        """Colours of ``nodes`` (int32 [...]) that lie at ``depths`` (of the same shape).

        Returns float32 [..., channels].
        """
        rows = (1 << depths.astype(np.int32)) - 1 + nodes
        scale = np.float32(2.0**-self.exponent)
        return np.asarray(self.nodes[rows], np.float32) * scale

    def merge_map(self, depth: int) -> IndexArray:
        """The forward step's map from the colours of ``depth`` onto those of ``depth - 1``."""
        return np.arange(2**depth, dtype=np.int32) >> 1

    def merge_cost(self, depth: int) -> npt.NDArray[np.float64]:
        """Ward's cost of each merge from ``depth`` to ``depth - 1``: float64 [2**(depth-1)].

        ``n_a n_b / (n_a + n_b) |c_a - c_b|**2`` (Ward 1963): the squared error that it adds.
        """
        weights = self.counts.astype(np.float64).reshape(2**depth, -1).sum(1).reshape(-1, 2)
        pairs = self.colours(depth).astype(np.float64).reshape(-1, 2, self.channels)
        total = np.maximum(weights.sum(1), 1.0)
        distance = np.square(pairs[:, 0] - pairs[:, 1]).sum(1)
        return np.asarray(weights.prod(1) / total * distance)

    def static_bits(self) -> list[FloatArray]:
        """What each node costs by the training counts alone: float32 [2**d] for every depth d.

        The sum over the splits that lead to it of ``-log2`` of its side's share, each side having
        half a vector more than it had.
        """
        bits = [np.zeros(1)]
        for depth in range(1, self.depth + 1):
            sizes = self.counts.astype(np.float64).reshape(2**depth, -1).sum(1).reshape(-1, 2) + 0.5
            split = -np.log2(sizes / sizes.sum(1, keepdims=True))
            bits.append(np.repeat(bits[-1], 2) + split.ravel())
        return [values.astype(np.float32) for values in bits]

    def nearest_leaf(self, vectors: FloatArray) -> IndexArray:
        """The leaf nearest to each vector by a full search.

        vectors: float32 [n, channels]. Returns int32 [n]. Ties go to the lowest index.
        """
        leaves = self.colours(self.depth)
        half_norms = np.float32(0.5) * np.square(leaves).sum(1)
        out = np.empty(len(vectors), np.int32)
        for start in range(0, len(vectors), _SEARCH_ROWS):
            block = slice(start, start + _SEARCH_ROWS)
            out[block] = np.argmax(vectors[block] @ leaves.T - half_norms, axis=1)
        return out

    def leaf(self, vectors: FloatArray) -> IndexArray:
        """The leaf that stands for each vector: float32 [n, channels] -> int32 [n].

        The nearest one; or, in a tree with rate weights, split by split the child of least
        ``|z - c|**2 + weight * bits`` by the static odds, ties to the lower index.
        """
        if not self.rate_weights:
            return self.nearest_leaf(vectors)
        node: IndexArray = np.zeros(len(vectors), np.int32)
        static = self.static_bits()
        for depth, weight in enumerate(self.rate_weights, 1):
            # |z - c|**2 without |z|**2, which is the same for both children.
            colours, bits = self.colours(depth), static[depth] - np.repeat(static[depth - 1], 2)
            costs = np.square(colours).sum(1) + np.float32(weight) * bits
            steps = np.float32(2) * (colours[1::2] - colours[::2])
            gain = np.einsum("nc,nc->n", vectors, steps[node]) - (costs[1::2] - costs[::2])[node]
            node = 2 * node + (gain > 0)
        return node

    def to_arrays(self, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
        """Named arrays for an .npz file; :meth:`from_arrays` is the inverse."""
        arrays: dict[str, npt.NDArray[np.generic]] = {
            f"{prefix}.nodes": self.nodes,
            f"{prefix}.counts": self.counts,
            f"{prefix}.exponent": np.array(self.exponent, np.int32),
        }
        if self.rate_weights:
            arrays[f"{prefix}.rate_weights"] = np.array(self.rate_weights, np.float32)
        return arrays

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Mapping[str, npt.NDArray[np.generic]]) -> PaletteTree:
        """Read what :meth:`to_arrays` wrote. Raises BundleError if anything is missing."""
        try:
            nodes, counts = arrays[f"{prefix}.nodes"], arrays[f"{prefix}.counts"]
            exponent = int(np.asarray(arrays[f"{prefix}.exponent"], np.int64).item())
            weights = np.asarray(arrays.get(f"{prefix}.rate_weights", ()), np.float64).tolist()
        except (KeyError, ValueError, TypeError) as error:
            raise BundleError("bad_palette", f"the palette of plane {prefix!r}: {error}") from None
        return cls(nodes, counts, exponent, tuple(weights))  # type: ignore[arg-type]  # dtypes checked above
