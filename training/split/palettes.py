"""Chains of palettes for the quantised channels: trees, and the same quantiser in torch.

An operating point is a chain: planes of its own over the same channels, entropy-constrained trees
whose bits weigh as much as this point's step says. A state of a chain is a depth in every plane.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from shared.palette import DiffusionState, MarkovPalette, PaletteTree, PlaneSpec
from training.fit.bisect import fit_leaves_for_rate, nearest
from training.split.lattice import lattice_leaves


@dataclass(frozen=True)
class PlaneShape:
    """So many consecutive channels of a scale in one plane, and how often its tree splits."""

    channels: int
    depth: int


@dataclass(frozen=True)
class ChainShape:
    """One operating point.

    planes: by scale, covering its channels. step: of the lattice that leaves lie on
    (:mod:`training.split.lattice`). rate_weights: None; or entropy-constrained trees instead, by
    the squared error that a bit is worth at the first and at the last split, in between by equal
    factors. cuts: of each state, finest first, how many splits every plane leaves out (0 first).
    """

    planes: dict[str, tuple[PlaneShape, ...]]
    step: float
    rate_weights: tuple[float, float] | None = None
    cuts: tuple[int, ...] = (0,)


def make_palettes(
    chains: Sequence[ChainShape], latents: Mapping[str, Tensor], vectors: int, seed: int
) -> list[MarkovPalette]:
    """Every chain's palette, its states numbered on from the chain before.

    latents: float32 [n, C, h, w] by scale, of training photos; trees are fitted to at most
    ``vectors`` random positions.
    """
    generator = torch.Generator().manual_seed(seed)
    samples = {}
    for scale, values in latents.items():
        rows = values.permute(0, 2, 3, 1).reshape(-1, values.shape[1])
        samples[scale] = rows[torch.randperm(len(rows), generator=generator)[:vectors]]
    trees = {}
    for chain, shape in enumerate(chains):
        for plane in _planes(chain, shape):
            stop = plane.first_channel + plane.channels
            here = samples[plane.scale][:, plane.first_channel : stop].contiguous()
            weights: list[float] = []
            if shape.rate_weights is None:
                leaves, counts = lattice_leaves(here, shape.step, plane.depth)
            else:
                weights = weights_by_split(shape.rate_weights, plane.depth)
                leaves, counts = fit_leaves_for_rate(here, weights)
            trees[plane.name] = PaletteTree.from_leaves(leaves.numpy(), counts.numpy(), weights)
    return _palettes(chains, trees)


def read_palettes(
    chains: Sequence[ChainShape], arrays: Mapping[str, npt.NDArray[np.generic]]
) -> list[MarkovPalette]:
    """The palettes that :meth:`MarkovPalette.to_arrays` gave. Raises BundleError."""
    planes = [p for chain, shape in enumerate(chains) for p in _planes(chain, shape)]
    return _palettes(chains, {p.name: PaletteTree.from_arrays(p.name, arrays) for p in planes})


def rated(palette: MarkovPalette, bits_per_pixel: Sequence[float]) -> MarkovPalette:
    """The same palette, its states with their typical rates (of all the bundle's states)."""
    states = [
        state.model_copy(update={"typical_bits_per_pixel": bits_per_pixel[state.state]})
        for state in palette.states
    ]
    return MarkovPalette(palette.planes, palette.trees, states)


def _palettes(
    chains: Sequence[ChainShape], trees: Mapping[str, PaletteTree]
) -> list[MarkovPalette]:
    palettes: list[MarkovPalette] = []
    for chain, shape in enumerate(chains):
        planes = _planes(chain, shape)
        first = palettes[-1].coarsest_state + 1 if palettes else 0
        states = [
            DiffusionState(
                state=first + row,
                depths=tuple(max(0, plane.depth - cut) for plane in planes),
                typical_bits_per_pixel=0.0,
            )
            for row, cut in enumerate(shape.cuts)
        ]
        palettes.append(MarkovPalette(planes, trees, states))
    return palettes


def _planes(chain: int, shape: ChainShape) -> tuple[PlaneSpec, ...]:
    specs = []
    for scale, planes in shape.planes.items():
        first = 0
        for number, plane in enumerate(planes):
            specs.append(
                PlaneSpec(
                    name=f"{scale}.{chain}.{number}",
                    scale=scale,
                    first_channel=first,
                    channels=plane.channels,
                    depth=plane.depth,
                )
            )
            first += plane.channels
    return tuple(specs)


def weights_by_split(ends: tuple[float, float], depth: int) -> list[float]:
    """``depth`` rate weights from the first to the second end by equal factors."""
    first, last = ends
    return [first * (last / first) ** (split / max(1, depth - 1)) for split in range(depth)]


class TreeQuantiser:
    """What an encoder makes of channels, in torch: :meth:`PaletteTree.leaf` for whole batches."""

    def __init__(self, palette: MarkovPalette) -> None:
        self._palette = palette
        self._colours: dict[str, list[Tensor]] = {}
        self._costs: dict[str, list[Tensor]] = {}
        for name, tree in palette.trees.items():
            bits = [torch.from_numpy(row) for row in tree.static_bits()]
            colours = [torch.from_numpy(tree.colours(d)) for d in range(tree.depth + 1)]
            self._colours[name] = colours
            weights = tree.rate_weights or (0.0,) * tree.depth
            self._costs[name] = [
                c.square().sum(1) + weight * (here - above.repeat_interleave(2))
                for c, weight, here, above in zip(
                    colours[1:], weights, bits[1:], bits[:-1], strict=True
                )
            ]

    def nodes(self, latents: dict[str, Tensor], state: int) -> dict[str, Tensor]:
        """Nodes at ``state``: int64 [n, h, w] by plane."""
        found = {}
        for plane in self._palette.planes:
            stop = plane.first_channel + plane.channels
            vectors = latents[plane.scale][:, plane.first_channel : stop].permute(0, 2, 3, 1)
            flat = vectors.reshape(-1, plane.channels)
            depth = self._palette.depths(state)[plane.name]
            node = torch.zeros(len(flat), dtype=torch.long)
            if not self._palette.trees[plane.name].rate_weights:
                node = nearest(flat, self._colours[plane.name][-1]) >> (plane.depth - depth)
                depth = 0
            for split in range(depth):
                colours, costs = self._colours[plane.name][split + 1], self._costs[plane.name]
                steps = 2 * (colours[1::2] - colours[::2])
                more = costs[split][1::2] - costs[split][::2]
                gain = (flat * steps[node]).sum(1) - more[node]
                node = 2 * node + (gain > 0)
            found[plane.name] = node.view(vectors.shape[:3])
        return found

    def __call__(self, latents: dict[str, Tensor], state: int) -> dict[str, Tensor]:
        """Colours at ``state``: float32 [n, C, h, w] by scale."""
        scales: dict[str, list[Tensor]] = {}
        depths, nodes = self._palette.depths(state), self.nodes(latents, state)
        for plane in self._palette.planes:
            colours = self._colours[plane.name][depths[plane.name]][nodes[plane.name]]
            scales.setdefault(plane.scale, []).append(colours.permute(0, 3, 1, 2))
        return {scale: torch.cat(parts, 1) for scale, parts in scales.items()}
