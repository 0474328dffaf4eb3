"""The steps from photos to a bundle of a cut network; each leaves its result in a folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from codec.kit.crops import PhotoCache
from codec.kit.photos import PhotoSource, make_cache
from codec.lattice_palette.contexts import LatticeContexts
from codec.lattice_palette.palette import LatticePalette, Values, channels
from codec.lattice_palette.train.bottleneck import CutModel, load_model, save_model
from codec.lattice_palette.train.bundle import (
    TYPICAL_PIXELS,
    BundleParts,
    typical_bytes,
    write_parts,
)
from codec.lattice_palette.train.contexts import fit_lattice
from codec.lattice_palette.train.fit import Report, train_bottleneck, train_tail
from codec.lattice_palette.train.lattices import make_lattices, rated, read_lattices
from codec.lattice_palette.train.networks.opening import open_network
from codec.lattice_palette.train.recipe import SplitRecipe
from codec.lattice_palette.train.start import linear_start
from codec.lattice_palette.train.views import Views, make_views
from codec.markov_palette.train.bundle import npz
from shared.errors import RecipeError

_BATCH = 40
_SHORT_SIDE = 448

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SplitFiles:
    """Where the steps of one run leave their results."""

    folder: Path

    @property
    def cache(self) -> Path:
        """Folder of the photos step."""
        return self.folder / "cache"

    @property
    def views(self) -> Path:
        """Folder of the views step."""
        return self.folder / "views"

    @property
    def bottleneck(self) -> Path:
        """Model and tail after the fit step."""
        return self.folder / "bottleneck.safetensors"

    @property
    def palette(self) -> Path:
        """Trees of all chains."""
        return self.folder / "palette.npz"

    @property
    def ordered(self) -> Path:
        """The palette step's model: channels in order of what they cost."""
        return self.folder / "ordered.safetensors"

    @property
    def tail(self) -> Path:
        """Model and tail after the tail step."""
        return self.folder / "tail.safetensors"

    @property
    def contexts(self) -> Path:
        """Context networks of all chains."""
        return self.folder / "contexts.npz"


def read_photos(source: Path, files: SplitFiles) -> None:
    """What the photos step does, of one folder or tar. Raises RecipeError ``not_found``."""
    if not source.exists():
        raise RecipeError("not_found", f"{source} does not exist")
    make_cache([PhotoSource(source)], [], files.cache, short_side=_SHORT_SIDE)


def write_views(recipe: SplitRecipe, files: SplitFiles, progress: Progress) -> dict[str, Any]:
    """The views step."""
    _need(files.cache / "photos.json", "photos")
    views = make_views(
        open_network(recipe), PhotoCache(files.cache), recipe.view_settings(), files.views, progress
    )
    return {"views": len(views), "held_out": views.held_out}


def fit(
    recipe: SplitRecipe,
    files: SplitFiles,
    report: Report,
    max_seconds: float = math.inf,
    *,
    resume: bool = False,
) -> dict[str, Any]:
    """The fit step: bottleneck and tail, end to end; resume: from what an earlier fit left."""
    torch.manual_seed(recipe.fit.seed)
    network, views = open_network(recipe), _views(files)
    if resume:
        _need(files.bottleneck, "fit")
        model = load_model(files.bottleneck, network)
    else:
        model = linear_start(
            network, views, recipe.model_settings(), recipe.bits_per_position, recipe.start_samples
        )
    train_bottleneck(
        model,
        network,
        views,
        recipe.fit.settings(),
        weight=recipe.bit_weight,
        report=report,
        max_seconds=max_seconds,
    )
    save_model(files.bottleneck, model, network)
    return {"steps_of_points": [round(float(step), 4) for step in model.steps]}


def write_palettes(recipe: SplitRecipe, files: SplitFiles) -> dict[str, Any]:
    """The palette step: channels in order of their bits, then every chain's lattice."""
    _need(files.bottleneck, "fit")
    network, views = open_network(recipe), _views(files)
    model = load_model(files.bottleneck, network)
    held = np.arange(views.held_out)
    model.reorder(_by_cost(model, latents_of(model, views, held)))
    latents = latents_of(model, views, views.trained[: recipe.contexts.views])
    palettes = make_lattices(recipe.shapes(model.steps.tolist()), latents)
    files.palette.write_bytes(npz({k: v for p in palettes for k, v in p.to_arrays().items()}))
    save_model(files.ordered, model, network)
    return {"states": sum(len(palette.states) for palette in palettes)}


def fit_tail(
    recipe: SplitRecipe, files: SplitFiles, report: Report, max_seconds: float = math.inf
) -> dict[str, Any]:
    """The tail step: what the cloud runs, behind the palettes."""
    _need(files.ordered, "palette")
    torch.manual_seed(recipe.tail.seed)
    network, views = open_network(recipe), _views(files)
    model = load_model(files.ordered, network)
    model.tell_states(recipe.points_of_states())
    train_tail(
        model,
        network,
        palettes_of(recipe, files),
        views,
        recipe.tail.settings(),
        report=report,
        max_seconds=max_seconds,
    )
    save_model(files.tail, model, network)
    return {"states": len(recipe.points_of_states())}


def write_contexts(recipe: SplitRecipe, files: SplitFiles, progress: Progress) -> dict[str, Any]:
    """The tables step: context networks of every chain, and held-out bytes a photo by state."""
    _need(files.ordered, "palette")
    network, views = open_network(recipe), _views(files)
    model = load_model(files.ordered, network)
    settings, palettes = recipe.contexts.settings(), palettes_of(recipe, files)
    latents = latents_of(model, views, views.trained[: recipe.contexts.views])
    held = latents_of(model, views, np.arange(views.held_out))
    total = settings.steps * len(palettes)
    arrays: dict[str, Any] = {}
    bytes_of: dict[str, list[float]] = {"static_tables": [], "networks": []}
    for number, palette in enumerate(palettes):
        seen, measured = values_of(palette, latents), values_of(palette, held)
        static = contexts = fit_lattice(palette, seen, replace(settings, steps=0))
        if settings.steps:
            contexts = fit_lattice(
                palette,
                seen,
                settings,
                progress=lambda step, of, here=number: progress(here * of + step, total),
            )
        arrays |= contexts.to_arrays()
        for name, made in (("static_tables", static), ("networks", contexts)):
            bytes_of[name] += typical_bytes(palette, made, measured)
    files.contexts.write_bytes(npz(arrays))
    return bytes_of


def export(recipe: SplitRecipe, files: SplitFiles, folder: Path, card: str | None) -> Any:
    """The export step: the bundle in ``folder``, which is returned."""
    _need(files.tail, "tail")
    _need(files.contexts, "tables")
    network, views = open_network(recipe), _views(files)
    model = load_model(files.tail, network)
    contexts = _contexts(files, palettes_of(recipe, files))
    held = latents_of(model, views, np.arange(views.held_out))
    rates = [
        round(8 * value / TYPICAL_PIXELS, 5)
        for palette, made in contexts
        for value in typical_bytes(palette, made, values_of(palette, held))
    ]
    parts = BundleParts(recipe, network, model, [rated(p, rates) for p, _ in contexts])
    return write_parts(parts, files.palette.read_bytes(), files.contexts.read_bytes(), folder, card)


def palettes_of(recipe: SplitRecipe, files: SplitFiles) -> list[LatticePalette]:
    """What the palette step wrote. Raises RecipeError ``step_missing``."""
    _need(files.palette, "palette")
    # Steps only matter when lattices are made.
    steps = [1.0] * len(recipe.bits_per_position)
    with np.load(files.palette) as arrays:
        return read_lattices(recipe.shapes(steps), dict(arrays))


def latents_of(model: CutModel, views: Views, chosen: np.ndarray) -> dict[str, Tensor]:
    """Channels to quantise of the ``chosen`` views, float32 [n, latent, h, w] by scale."""
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for start in range(0, len(chosen), _BATCH):
            for name, part in model.latents(views.features(chosen[start : start + _BATCH])).items():
                found.setdefault(name, []).append(part)
    return {name: torch.cat(parts) for name, parts in found.items()}


def values_of(palette: LatticePalette, latents: Mapping[str, Tensor]) -> Values:
    """Whole steps of every view: int32 [n, C, h, w] a plane."""
    return {
        name: plane.quantise(latents[plane.spec.scale][:, channels(plane.spec)].numpy())
        for name, plane in palette.planes.items()
    }


def _by_cost(model: CutModel, latents: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """By scale: its channels, those first that take most bits at the second finest point."""
    point = min(1, len(model.steps) - 1)
    order = {}
    with torch.no_grad():
        for name, values in latents.items():
            rounded = (values / model.steps[point]).round()
            bits = model.rate[name](rounded, torch.full((len(values),), point)).sum((0, 2, 3))
            order[name] = bits.argsort(descending=True)
    return order


def _contexts(
    files: SplitFiles, palettes: list[LatticePalette]
) -> list[tuple[LatticePalette, LatticeContexts]]:
    with np.load(files.contexts) as stored:
        arrays = dict(stored)
    return [(p, LatticeContexts.from_arrays(p, arrays)) for p in palettes]


def _views(files: SplitFiles) -> Views:
    try:
        return Views(files.views)
    except FileNotFoundError as error:
        raise RecipeError("step_missing", str(error)) from None


def _need(path: Path, step: str) -> None:
    if not path.exists():
        raise RecipeError("step_missing", f"{path} is missing; run the {step} step first")
