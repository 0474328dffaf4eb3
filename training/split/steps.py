"""The steps from photos to a bundle of a cut network; each leaves its result in a folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cloud_server.models import ModelStore
from shared.entropy import ContextModel
from shared.palette import MarkovPalette
from training.contexts.fit import fit_contexts, static_contexts
from training.fit.data import PhotoCache
from training.recipe import RecipeError
from training.split.bundle import TYPICAL_PIXELS, BundleParts, typical_bytes, write_parts
from training.split.model import CutModel, load_model, save_model
from training.split.network import SplitNetwork
from training.split.palettes import make_palettes, rated, read_palettes
from training.split.recipe import SplitRecipe
from training.split.ssd import WEIGHTS as SSD
from training.split.ssd import SplitSsd
from training.split.start import linear_start
from training.split.training import Report, train_bottleneck, train_tail
from training.split.views import Views, make_views
from training.steps.tables import npz

NETWORKS: dict[str, Callable[[ModelStore], SplitNetwork]] = {SSD: SplitSsd}
"""What can be cut, by the recipe's ``network``."""
_BATCH = 40

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


def open_network(recipe: SplitRecipe) -> SplitNetwork:
    """The recipe's network. Raises RecipeError ``bad_recipe``, ModelError."""
    if recipe.network not in NETWORKS:
        known = ", ".join(sorted(NETWORKS))
        raise RecipeError("bad_recipe", f"no network {recipe.network!r}; there is: {known}")
    return NETWORKS[recipe.network](ModelStore())


def write_views(recipe: SplitRecipe, files: SplitFiles, progress: Progress) -> dict[str, Any]:
    """The views step."""
    _need(files.cache / "photos.json", "photos")
    views = make_views(
        open_network(recipe), PhotoCache(files.cache), recipe.view_settings(), files.views, progress
    )
    return {"views": len(views), "held_out": views.held_out}


def fit(
    recipe: SplitRecipe, files: SplitFiles, report: Report, max_seconds: float = math.inf
) -> dict[str, Any]:
    """The fit step: bottleneck and tail, end to end."""
    torch.manual_seed(recipe.fit.seed)
    network, views = open_network(recipe), _views(files)
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
    """The palette step: channels in order of their bits, then every chain's trees."""
    _need(files.bottleneck, "fit")
    network, views = open_network(recipe), _views(files)
    model = load_model(files.bottleneck, network)
    held = np.arange(views.held_out)
    model.reorder(_by_cost(model, latents_of(model, views, held)))
    latents = latents_of(model, views, views.trained[: recipe.tree_views])
    shapes = [chain.shape(model.steps.tolist()) for chain in recipe.chains]
    palettes = make_palettes(shapes, latents, recipe.tree_vectors, recipe.fit.seed)
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
    total = settings.steps * sum(len(palette.planes) for palette in palettes)
    arrays: dict[str, Any] = {}
    bytes_of: dict[str, list[float]] = {"static_tables": [], "networks": []}
    done = 0
    for palette in palettes:
        seen, measured = indices_of(palette, latents), indices_of(palette, held)
        here = done
        static = contexts = static_contexts(palette, seen)
        if settings.steps:
            contexts = fit_contexts(
                palette,
                seen,
                settings,
                progress=lambda step, _, here=here: progress(here + step, total),
            )
        arrays |= contexts.to_arrays()
        done += settings.steps * len(palette.planes)
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
        for value in typical_bytes(palette, made, indices_of(palette, held))
    ]
    parts = BundleParts(recipe, network, model, [rated(p, rates) for p, _ in contexts])
    return write_parts(parts, files.palette.read_bytes(), files.contexts.read_bytes(), folder, card)


def palettes_of(recipe: SplitRecipe, files: SplitFiles) -> list[MarkovPalette]:
    """What the palette step wrote. Raises RecipeError ``step_missing``."""
    _need(files.palette, "palette")
    # Steps only matter when trees are made.
    steps = [1.0] * len(recipe.bits_per_position)
    with np.load(files.palette) as arrays:
        return read_palettes([chain.shape(steps) for chain in recipe.chains], dict(arrays))


def latents_of(model: CutModel, views: Views, chosen: np.ndarray) -> dict[str, Tensor]:
    """Channels to quantise of the ``chosen`` views, float32 [n, latent, h, w] by scale."""
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for start in range(0, len(chosen), _BATCH):
            for name, part in model.latents(views.features(chosen[start : start + _BATCH])).items():
                found.setdefault(name, []).append(part)
    return {name: torch.cat(parts) for name, parts in found.items()}


def indices_of(palette: MarkovPalette, latents: Mapping[str, Tensor]) -> list[Any]:
    """The finest indices of every view."""
    count = len(next(iter(latents.values())))
    return [
        palette.encode({name: values[n].numpy() for name, values in latents.items()})
        for n in range(count)
    ]


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
    files: SplitFiles, palettes: list[MarkovPalette]
) -> list[tuple[MarkovPalette, ContextModel]]:
    with np.load(files.contexts) as stored:
        arrays = dict(stored)
    return [(p, ContextModel.from_arrays(p.planes, p, arrays)) for p in palettes]


def _views(files: SplitFiles) -> Views:
    try:
        return Views(files.views)
    except FileNotFoundError as error:
        raise RecipeError("step_missing", str(error)) from None


def _need(path: Path, step: str) -> None:
    if not path.exists():
        raise RecipeError("step_missing", f"{path} is missing; run the {step} step first")
