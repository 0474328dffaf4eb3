"""The tables step: indices of training photos, and what context models make of them."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from codec.markov_palette.codec import MarkovPaletteCodec
from codec.markov_palette.contexts import ContextModel
from codec.markov_palette.palette import Indices, MarkovPalette
from codec.settings import DiffusionState
from shared.bitstream.container import HEADER_BYTES, layer_bytes
from shared.bundle import Bundle, Manifest
from shared.preprocess import pad_to_multiple
from training.contexts.fit import even_contexts, static_contexts
from training.fit.data import PhotoCache
from training.recipe import Recipe


def npz(arrays: dict[str, npt.NDArray[np.generic]]) -> bytes:
    """The arrays as a compressed .npz file."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # numpy's stub wants a bool somewhere
    return buffer.getvalue()


def manifest_of(recipe: Recipe, states: tuple[DiffusionState, ...], **more: Any) -> Manifest:
    """The recipe's manifest; files are filled in when the bundle is written."""
    values: dict[str, Any] = {
        "name": recipe.name,
        "version": recipe.version,
        "description": recipe.description,
        "codec": "markov-palette",
        "scales": recipe.scales,
        "planes": recipe.plane_specs,
        "states": states,
        "input_multiple": max(scale.stride for scale in recipe.scales),
        "halo_positions": recipe.extractor_config().halo_positions,
        "files": {},
    }
    return Manifest.model_validate(values | more)


def make_codec(
    recipe: Recipe, palette: MarkovPalette, contexts: ContextModel, folder: Path
) -> MarkovPaletteCodec:
    """A codec over a draft bundle in ``folder`` (palette and contexts, no networks)."""
    files = {"palette.npz": npz(palette.to_arrays()), "contexts.npz": npz(contexts.to_arrays())}
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


def compare_contexts(
    recipe: Recipe,
    palette: MarkovPalette,
    fitted: ContextModel,
    counted_on: list[tuple[Indices, int]],
    held_out: list[tuple[Indices, int]],
    folder: Path,
) -> dict[str, list[float]]:
    """Bits per pixel of held-out photos at every state, by model; and what the networks save.

    ``even_odds``: no model. ``static_tables``: each node's frequency in ``counted_on``.
    ``networks``: the fitted ones. ``saved``: their share of the static tables' bits.
    """
    static = static_contexts(palette, [indices for indices, _ in counted_on])
    models = {"even_odds": even_contexts(palette), "static_tables": static, "networks": fitted}
    rates = {
        name: typical_bits_per_pixel(make_codec(recipe, palette, model, folder), held_out)
        for name, model in models.items()
    }
    pairs = zip(rates["networks"], rates["static_tables"], strict=True)
    rates["saved"] = [1 - ours / theirs for ours, theirs in pairs]
    return {name: [round(value, 5) for value in row] for name, row in rates.items()}
