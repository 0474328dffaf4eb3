"""The texture step: pseudo-labels of the training photos' patches, by k-means on descriptors.

(Section "Texture-semantic features" of the design; the fit step pulls the latents of patches
with the same label together.)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from training.fit.bisect import fit_leaves
from training.fit.data import PhotoCache
from training.fit.features.texture import PatchDescriptors, TextureModel, principal_axes
from training.fit.labels import LABELS_FILE, PatchGrid, fingerprint
from training.recipe import RecipeError

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class TextureSettings:
    """``2 ** depth`` textures; principal components per stage; what they are fitted on."""

    depth: int = 6
    components: int = 32
    sample_photos: int = 800
    patches_per_photo: int = 16
    grid: PatchGrid = field(default_factory=PatchGrid)


def make_labels(
    folder: Path,
    backbone: Mapping[str, Tensor],
    settings: TextureSettings,
    seed: int,
    progress: Callable[[int, int], None] = lambda step, total: None,
) -> dict[str, object]:
    """Label every patch of the photo cache in ``folder`` and write ``textures.npz`` there.

    backbone: the model store's ``efficientnet-lite0``. Returns figures: how many patches each
    texture has, and the share of the descriptors' variance that the textures explain.
    Raises RecipeError ``no_patches`` when no photo is as large as a patch.
    """
    cache = PhotoCache(folder)
    descriptors = PatchDescriptors(backbone, settings.grid)
    rng = np.random.default_rng(seed)
    large = [n for n in range(len(cache)) if _shape(cache, n, settings.grid) != (0, 0)]
    if not large:
        wanted = settings.grid.window
        raise RecipeError("no_patches", f"no photo is as large as a patch of {wanted} pixels")
    chosen = rng.permutation(large)[: settings.sample_photos]
    total = len(chosen) + len(cache)
    sample: list[list[Tensor]] = []
    for number, photo in enumerate(chosen):
        stages = descriptors(as_picture(cache[int(photo)]))
        keep = torch.from_numpy(rng.permutation(len(stages[0]))[: settings.patches_per_photo])
        sample.append([stage[keep] for stage in stages])
        progress(number + 1, total)
    model, explained = fit_model(
        [torch.cat(stage) for stage in zip(*sample, strict=True)], settings
    )
    del sample
    shapes = np.zeros((len(cache), 2), np.int32)
    labels: list[npt.NDArray[np.int16]] = []
    for number in range(len(cache)):
        shapes[number] = _shape(cache, number, settings.grid)
        if shapes[number].all():
            found = model.labels(descriptors(as_picture(cache[number])))
            labels.append(found.numpy().astype(np.int16))
        progress(len(chosen) + number + 1, total)
    flat = np.concatenate(labels)
    partial = folder / f"{LABELS_FILE}.partial"
    with partial.open("wb") as output:
        np.savez(
            output,
            labels=flat,
            shapes=shapes,
            photos=np.array(fingerprint(folder)),
            **model.to_arrays(),  # type: ignore[arg-type]  # numpy's stub wants a bool somewhere
        )
    partial.replace(folder / LABELS_FILE)
    counts = np.bincount(flat, minlength=2**settings.depth)
    return {
        "photos": len(labels),
        "patches": len(flat),
        "textures": int((counts > 0).sum()),
        "explained": round(explained, 4),
        "largest_share": round(float(counts.max() / len(flat)), 4),
        "sha256": hashlib.sha256(flat.tobytes()).hexdigest(),
    }


def fit_model(stages: list[Tensor], settings: TextureSettings) -> tuple[TextureModel, float]:
    """Axes and centres from a sample of descriptors, [n, dimensions] per stage.

    Also returns the share of the projected variance that the centres explain.
    """
    means, axes = zip(
        *(principal_axes(stage, settings.components) for stage in stages), strict=True
    )
    empty = TextureModel(settings.grid, means, axes, torch.zeros(1, 1))
    projected = empty.project(stages)
    centres, _ = fit_leaves(projected, settings.depth, leaf_steps=12)
    model = TextureModel(settings.grid, means, axes, centres)
    left = (projected - centres[model.labels(stages)]).square().sum()
    return model, 1 - float(left / (projected - projected.mean(0)).square().sum())


def as_picture(photo: Pixels) -> Tensor:
    """uint8 [h, w, 3] -> float32 [1, 3, h, w] in -0.5..0.5."""
    return torch.from_numpy(np.array(photo)).permute(2, 0, 1)[None].float() / 255 - 0.5


def _shape(cache: PhotoCache, number: int, grid: PatchGrid) -> tuple[int, int]:
    entry = cache.entries[number]
    return grid.shape(entry["height"], entry["width"])
