"""A tiny bundle of the lattice codec: two chains over smooth random channels, real contexts."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from codec.latents import Features
from codec.lattice_palette.contexts import LatticeContexts
from codec.lattice_palette.palette import LatticePalette
from codec.lattice_palette.train.contexts import LatticeSettings, fit_lattice
from codec.lattice_palette.train.lattices import ChainShape, make_lattices, values_of
from codec.settings import ChainSpec, FeatureSettings, ScaleSpec, create_bundle
from shared.bundle import Bundle

SCALE, STRIDE, CHANNELS = "grid", 16, 6
SHAPES = (
    ChainShape({SCALE: (1, 2, 3)}, 0.5, "two-level", (0, 1, 2)),
    ChainShape({SCALE: (1, 2, 3)}, 1.5, "checkerboard", (0,)),
)
SETTINGS = LatticeSettings(hidden=12, width=8, steps=150, batch=6)


def fields(rows: int, columns: int, seed: int) -> np.ndarray:
    """Smooth channels, the later ones weaker: float32 [CHANNELS, rows, columns]."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(CHANNELS, rows + 2, columns + 2))
    near = sum(noise[:, i : i + rows, j : j + columns] for i in range(3) for j in range(3))
    return (near * 1.2 / (1 + np.arange(CHANNELS))[:, None, None]).astype(np.float32)


def features(width: int, height: int, seed: int = 0) -> Features:
    """Of a picture of that size."""
    return {SCALE: fields(-(-height // STRIDE), -(-width // STRIDE), seed)}


def make_contexts(settings: LatticeSettings = SETTINGS) -> list[LatticeContexts]:
    """Of both chains, fitted to 40 random grids."""
    import torch

    latents = {SCALE: torch.from_numpy(np.stack([fields(12, 16, n) for n in range(100, 140)]))}
    palettes: list[LatticePalette] = make_lattices(SHAPES, latents)
    return [fit_lattice(p, values_of(p, latents), settings) for p in palettes]


def make_lattice_bundle(folder: Path) -> Bundle:
    """The bundle ``tiny-lattice``: states 0 to 2, and 3. It has no networks."""
    contexts = make_contexts()
    files = {}
    for name, parts in (("palette", [c.palette for c in contexts]), ("contexts", contexts)):
        buffer = io.BytesIO()
        np.savez(buffer, **{k: v for part in parts for k, v in part.to_arrays().items()})
        files[f"{name}.npz"] = buffer.getvalue()
    palettes = [c.palette for c in contexts]
    settings = FeatureSettings(
        scales=(ScaleSpec(name=SCALE, stride=STRIDE, channels=CHANNELS),),
        planes=tuple(spec for palette in palettes for spec in palette.specs),
        states=tuple(state for palette in palettes for state in palette.states),
        chains=tuple(ChainSpec(planes=len(p.specs), states=len(p.states)) for p in palettes),
        input_multiple=STRIDE,
        halo_positions=0,
    )
    manifest = settings.manifest(
        name="tiny-lattice",
        version="1",
        codec="lattice-palette",
    )
    return create_bundle(folder, manifest, files)
