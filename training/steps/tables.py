"""The tables step: count every split in its context over training photos, then smooth."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from shared.bitstream.container import HEADER_BYTES, layer_bytes
from shared.bundle import Bundle, Manifest
from shared.codec import MarkovPaletteCodec
from shared.entropy import PROBABILITY_ONE, ContextTables
from shared.entropy.tables import PASSES
from shared.palette import DiffusionState, MarkovPalette
from shared.palette.chain import Indices
from shared.preprocess import pad_to_multiple
from training.fit.data import PhotoCache
from training.recipe import Recipe

_LEAST = 24
"""Smallest probability of either bit over 2**16: bounds what one surprise may cost, 11.4 bits."""


def npz(arrays: dict[str, npt.NDArray[np.generic]]) -> bytes:
    """The arrays as an uncompressed .npz file."""
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub wants a bool somewhere
    return buffer.getvalue()


def manifest_of(recipe: Recipe, states: tuple[DiffusionState, ...], **more: Any) -> Manifest:
    """The recipe's manifest; files are filled in when the bundle is written."""
    values: dict[str, Any] = {
        "name": recipe.name,
        "version": recipe.version,
        "description": recipe.description,
        "codec": "markov-palette",
        "scales": recipe.scales,
        "planes": recipe.planes,
        "states": states,
        "input_multiple": max(scale.stride for scale in recipe.scales),
        "halo_positions": recipe.extractor_config().halo_positions,
        "files": {},
    }
    return Manifest.model_validate(values | more)


def flat_tables(recipe: Recipe) -> dict[str, ContextTables]:
    """Even odds everywhere: what counting starts from."""
    thresholds = np.array(recipe.tables.thresholds, np.int32)
    shape = len(thresholds) + 1
    return {
        plane.name: ContextTables(
            thresholds,
            np.full((PASSES, 2**plane.depth - 1, shape), PROBABILITY_ONE // 2, np.uint16),
        )
        for plane in recipe.planes
    }


def make_codec(
    recipe: Recipe, palette: MarkovPalette, tables: dict[str, ContextTables], folder: Path
) -> MarkovPaletteCodec:
    """A codec over a draft bundle in ``folder`` (palette and tables, no networks)."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name, table in tables.items():
        arrays |= table.to_arrays(name)
    files = {"palette.npz": npz(palette.to_arrays()), "contexts.npz": npz(arrays)}
    return MarkovPaletteCodec(Bundle.create(folder, manifest_of(recipe, palette.states), files))


def training_indices(
    extractor: nn.Module,
    palette: MarkovPalette,
    cache: PhotoCache,
    photos: int,
    seed: int,
    progress: Callable[[int, int], None],
) -> list[tuple[Indices, int]]:
    """Leaf indices of a random sample of training photos, with each photo's pixels."""
    chosen = np.random.default_rng(seed).choice(
        len(cache), min(photos, len(cache)), replace=False, p=cache.chances
    )
    result = []
    with torch.inference_mode():
        for number, index in enumerate(chosen):
            photo = np.array(cache[int(index)])
            padded = pad_to_multiple(photo, 16)
            picture = torch.from_numpy(padded).permute(2, 0, 1)[None].float() / 255 - 0.5
            semantic, texture = extractor(picture)
            features = {"semantic": semantic[0].numpy(), "texture": texture[0].numpy()}
            result.append((palette.encode(features), photo.shape[0] * photo.shape[1]))
            progress(number + 1, len(chosen))
    return result


def count_and_smooth(
    recipe: Recipe, codec: MarkovPaletteCodec, samples: list[tuple[Indices, int]]
) -> dict[str, ContextTables]:
    """Probabilities from counts, shrunk towards the table pooled over the nodes of a depth."""
    thresholds = np.array(recipe.tables.thresholds, np.int32)
    bins = len(thresholds) + 1
    counts = {
        plane.name: np.zeros((2, PASSES * (2**plane.depth - 1) * bins), np.int64)
        for plane in recipe.planes
    }
    for indices, _ in samples:
        codec.observe(indices, counts)
    return {
        plane.name: ContextTables(
            thresholds, _smooth(counts[plane.name], plane.depth, bins, recipe.tables.prior)
        )
        for plane in recipe.planes
    }


def typical_bits_per_pixel(
    codec: MarkovPaletteCodec, samples: list[tuple[Indices, int]]
) -> list[float]:
    """Median bits per pixel of whole files at every state, over the samples."""
    rows = []
    for indices, pixels in samples:
        total, sizes = HEADER_BYTES, []
        for layer in codec.encode_indices(indices):
            total += layer_bytes(len(layer.payload))
            sizes.append(8 * total / pixels)
        rows.append(sizes[::-1])
    return [float(value) for value in np.median(np.array(rows), axis=0)]


def _smooth(
    counts: npt.NDArray[np.int64], depth: int, bins: int, prior: float
) -> npt.NDArray[np.uint16]:
    zeros, ones = counts.reshape(2, PASSES, 2**depth - 1, bins).astype(np.float64)
    chance = np.empty_like(ones)
    for level in range(depth):
        nodes = slice(2**level - 1, 2 ** (level + 1) - 1)
        pooled_ones = ones[:, nodes].sum(1, keepdims=True) + 0.5
        pooled = pooled_ones / (pooled_ones + zeros[:, nodes].sum(1, keepdims=True) + 0.5)
        seen = ones[:, nodes] + zeros[:, nodes]
        chance[:, nodes] = (ones[:, nodes] + prior * pooled) / (seen + prior)
    scaled = np.round(chance * PROBABILITY_ONE)
    return np.clip(scaled, _LEAST, PROBABILITY_ONE - _LEAST).astype(np.uint16)
