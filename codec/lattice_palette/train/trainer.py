"""The steps from photos to a bundle of a cut network; each leaves files in the run's folder."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import torch
import yaml
from torch import Tensor

from codec.base import Check, Pixels, Report, TrainingStep
from codec.kit.checkpoint import npz
from codec.kit.crops import PhotoCache
from codec.kit.photos import CACHE, bundle_figures, need
from codec.kit.recipe import PHOTOS_SUMMARY, photos_step
from codec.kit.sequences import material
from codec.kit.uncut import UncutFeatures, feature_stages
from codec.lattice_palette.coding import LatticeCodec
from codec.lattice_palette.contexts import LatticeContexts
from codec.lattice_palette.nested.coding import NestedChain
from codec.lattice_palette.nested.contexts import NestedContexts
from codec.lattice_palette.nested.palette import NestedPalette
from codec.lattice_palette.palette import LatticePalette
from codec.lattice_palette.train.adopted import adopted
from codec.lattice_palette.train.bottleneck import CutModel, load_model, save_model
from codec.lattice_palette.train.bundle import (
    TYPICAL_PIXELS,
    TYPICAL_SIDES,
    BundleParts,
    typical_bytes,
    write_parts,
)
from codec.lattice_palette.train.contexts import fit_lattice
from codec.lattice_palette.train.fit import Quantiser, train_bottleneck, train_tail
from codec.lattice_palette.train.lattices import (
    LatticeQuantiser,
    make_lattices,
    rated,
    read_lattices,
    values_of,
)
from codec.lattice_palette.train.nested.contexts import fit_nested
from codec.lattice_palette.train.nested.lattices import (
    NestedQuantiser,
    make_nested,
    rated_nested,
    read_nested,
)
from codec.lattice_palette.train.nested.sizes import NestedFiles
from codec.lattice_palette.train.networks.opening import open_network
from codec.lattice_palette.train.recipe import CutPart, SplitRecipe, plan_recipe
from codec.lattice_palette.train.start import linear_start
from codec.lattice_palette.train.views import Views, fitted, make_views
from shared.bundle import Bundle
from shared.errors import RecipeError
from shared.weights import ModelStore

_BATCH = 40


class SplitFiles:
    """Where the steps of one run leave their results.

    cache, views: folders of the steps photos and views. bottleneck: model and tail after the fit
    step. palette: trees of all chains. ordered: the palette step's model, channels in order of what
    they cost. tail: model and tail after the tail step. contexts: networks of all chains.
    """

    def __init__(self, folder: Path) -> None:
        """folder: of the run."""
        self.folder, self.cache, self.views = folder, folder / CACHE, folder / "views"
        self.bottleneck = folder / "bottleneck.safetensors"
        self.palette, self.contexts = folder / "palette.npz", folder / "contexts.npz"
        self.sequences = folder / "sequences.npz"
        self.ordered, self.tail = folder / "ordered.safetensors", folder / "tail.safetensors"


def plan(
    recipe: SplitRecipe,
    run: Path,
    report: Report,
    *,
    network: Annotated[str, "Weights of a YOLO detector, such as yolo11n.pt."],
    output: Annotated[Path, "The recipe file to write."],
    at: Annotated[str, "The layer to cut behind; auto takes the fewest values."] = "auto",
    side: Annotated[int, "The network's input, pixels."] = 640,
    edge_share: Annotated[float, "The edge's part of the multiply-adds, for auto."] = 1 / 3,
    name: Annotated[str | None, "The bundle's. Default: the network's."] = None,
) -> dict[str, Any]:
    """Find the cheapest place to cut a network, and write a recipe for it."""
    from codec.lattice_palette.train.networks.yolo import SplitYolo
    from shared.cli import write_atomically

    if at != "auto" and not at.isdecimal():
        raise RecipeError("bad_recipe", f"--at takes auto or a layer's number, not {at!r}")
    layer = None if at == "auto" else int(at)
    opened = SplitYolo(ModelStore(), network, side=side, at=layer, most_on_edge=edge_share)
    cut = CutPart(at=opened.cut.after, side=side, edge_share=max(edge_share, 1e-6))
    bundle = name or re.sub("[^a-z0-9-]+", "-", opened.info.name.lower()).strip("-")
    planned = plan_recipe(opened.info, cut, network, bundle)
    values = planned.model_dump(mode="json", exclude_unset=True)
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None)
    write_atomically(output, text.encode())
    rows = [asdict(row) | {"chosen": row == opened.cut} for row in opened.cuts]
    return {"recipe": str(output), "cut": asdict(opened.cut), "cuts": rows}


def write_views(recipe: SplitRecipe, run: Path, report: Report) -> dict[str, Any]:
    """Draw augmented views of the training photos, and run the whole network on them once."""
    files = SplitFiles(run)
    need(files.cache / "photos.json", "photos")
    views = make_views(
        open_network(recipe),
        PhotoCache(files.cache),
        recipe.views,
        files.views,
        lambda done, total: report(done, total, {}),
    )
    return {"views": len(views), "held_out": views.held_out}


def fit(
    recipe: SplitRecipe,
    run: Path,
    report: Report,
    *,
    max_minutes: Annotated[float, "The schedule ends after so long, if not by its steps."] = 0,
    resume: Annotated[bool, "Go on from what an earlier fit left in this run."] = False,
    bundle: Annotated[str | None, "Take all of it from this bundle; train nothing."] = None,
    tail_share: Annotated[float, "How far the tail goes from the network's own to --bundle's."] = 1,
) -> dict[str, Any]:
    """Train the bottleneck and the tail end to end, bits against the network's outputs."""
    torch.manual_seed(recipe.fit.seed)
    files = SplitFiles(run)
    network = open_network(recipe)
    if bundle is not None:
        states = len(recipe.points_of_states())
        model = adopted(Bundle.load(bundle), network, recipe.model, states, tail_share)
        save_model(files.bottleneck, model, network)
        return {"bundle": bundle}
    views = _views(files)
    if resume:
        need(files.bottleneck, "fit")
        model = load_model(files.bottleneck, network)
    else:
        model = linear_start(
            network, views, recipe.model, recipe.bits_per_position, recipe.start_samples
        )
    train_bottleneck(
        model,
        network,
        views,
        recipe.fit,
        weight=recipe.bit_weight,
        report=report,
        max_seconds=60 * max_minutes or math.inf,
    )
    save_model(files.bottleneck, model, network)
    return {"steps_of_points": [round(float(step), 4) for step in model.steps]}


def write_palettes(recipe: SplitRecipe, run: Path, report: Report) -> dict[str, Any]:
    """Put channels in order of their bits, and fit every chain's lattice to them."""
    files = SplitFiles(run)
    need(files.bottleneck, "fit")
    network, views = open_network(recipe), _views(files)
    model = load_model(files.bottleneck, network)
    if recipe.nested is not None:
        # Channels fall by variance already.
        latents = latents_of(model, views, views.trained[: recipe.contexts.views])
        step = recipe.nested.step or float(model.steps[0])
        palette = make_nested(recipe.nested, recipe.groups, step, latents)
        files.palette.write_bytes(npz(palette.to_arrays()))
        save_model(files.ordered, model, network)
        return {"states": len(palette.states)}
    held = np.arange(views.held_out)
    model.reorder(_by_cost(model, latents_of(model, views, held)))
    latents = latents_of(model, views, views.trained[: recipe.contexts.views])
    palettes = make_lattices(recipe.shapes(model.steps.tolist()), latents)
    files.palette.write_bytes(npz({k: v for p in palettes for k, v in p.to_arrays().items()}))
    save_model(files.ordered, model, network)
    return {"states": sum(len(palette.states) for palette in palettes)}


def fit_tail(
    recipe: SplitRecipe,
    run: Path,
    report: Report,
    *,
    max_minutes: Annotated[float, "The schedule ends after so long, if not by its steps."] = 0,
) -> dict[str, Any]:
    """Train what the cloud runs behind the real palettes; the edge's half stays."""
    files = SplitFiles(run)
    need(files.ordered, "palette")
    torch.manual_seed(recipe.tail.seed)
    network, views = open_network(recipe), _views(files)
    model = load_model(files.ordered, network)
    if model.states != len(recipe.points_of_states()):
        # One that was adopted has been told them.
        model.tell_states(recipe.points_of_states())
    train_tail(
        model,
        network,
        _quantisers(recipe, files),
        views,
        recipe.tail,
        share=recipe.tail_share,
        report=report,
        max_seconds=60 * max_minutes or math.inf,
    )
    save_model(files.tail, model, network)
    return {"states": len(recipe.points_of_states())}


def write_sequences(
    recipe: SplitRecipe,
    run: Path,
    report: Report,
    *,
    data: Annotated[Path | None, "The folder that the recipe's sequences are relative to."] = None,
) -> dict[str, Any]:
    """Run the network on moving material, for contexts of predicted frames."""
    files = SplitFiles(run)
    network, part = open_network(recipe), recipe.sequences
    rng = np.random.default_rng(part.seed)
    kept: list[npt.NDArray[np.float16]] = []

    def keep(piece: list[Pixels]) -> None:
        info = network.info
        shown = np.stack([fitted(frame, info.width, info.height, info.fit) for frame in piece])
        with torch.no_grad():
            found = network.head(torch.from_numpy(shown).permute(0, 3, 1, 2).float())
        (features,) = found.values()
        kept.append(features.numpy().astype(np.float16))
        report(len(kept), len(kept) + 1, {})

    photos: Iterable[Pixels] = ()
    if part.photos:
        need(files.cache / "photos.json", "photos")
        photos = PhotoCache(files.cache).drawn(part.photos, rng)
    for piece in material(part, data or Path(), photos, rng):
        keep(piece)
    np.savez(files.sequences, *kept)
    return {"pieces": len(kept), "frames": sum(map(len, kept))}


def write_contexts(
    recipe: SplitRecipe,
    run: Path,
    report: Report,
    *,
    jobs: Annotated[int, "Processes that fit networks of nested lattices side by side."] = 1,
    bundle: Annotated[str | None, "Of nested lattices: keep what this bundle's have."] = None,
) -> dict[str, Any]:
    """Fit every chain's context networks; figures are a held-out photo's bytes at every state."""
    files = SplitFiles(run)
    need(files.ordered, "palette")
    network, views = open_network(recipe), _views(files)
    model = load_model(files.ordered, network)
    if recipe.nested is not None:
        return _write_nested_contexts(recipe, files, model, views, jobs, bundle, report)
    settings, palettes = recipe.contexts, palettes_of(recipe, files)
    latents = latents_of(model, views, views.trained[: recipe.contexts.views])
    held = latents_of(model, views, np.arange(views.held_out))
    total = settings.steps * len(palettes)
    arrays: dict[str, Any] = {}
    bytes_of: dict[str, list[float]] = {"static_tables": [], "networks": []}
    for number, palette in enumerate(palettes):
        seen, measured = values_of(palette, latents), values_of(palette, held)
        static = contexts = fit_lattice(palette, seen, settings.model_copy(update={"steps": 0}))
        if settings.steps:
            before = number * settings.steps

            def progress(step: int, steps: int, before: int = before) -> None:
                report(before + step, total, {})

            contexts = fit_lattice(palette, seen, settings, progress=progress)
        arrays |= contexts.to_arrays()
        for name, made in (("static_tables", static), ("networks", contexts)):
            bytes_of[name] += typical_bytes(palette, made, measured)
    files.contexts.write_bytes(npz(arrays))
    return bytes_of


def export(
    recipe: SplitRecipe,
    run: Path,
    report: Report,
    *,
    output: Annotated[Path, "Folder of the bundle."],
    card: Annotated[Path | None, "A model card (Markdown) to put into the bundle."] = None,
) -> dict[str, Any]:
    """Write the bundle: both networks as ONNX, palettes, contexts, manifest, notice."""
    files = SplitFiles(run)
    need(files.tail, "tail")
    need(files.contexts, "tables")
    network, views = open_network(recipe), _views(files)
    model = load_model(files.tail, network)
    held = latents_of(model, views, np.arange(views.held_out))
    if recipe.nested is not None:
        chain = _nested(recipe, files)
        rates = [
            round(8 * value / TYPICAL_PIXELS, 5)
            for value in chain.typical_bytes(held, TYPICAL_SIDES)
        ]
        parts = BundleParts(recipe, network, model, [rated_nested(chain.palette, rates)])
    else:
        contexts = _contexts(files, palettes_of(recipe, files))
        rates = [
            round(8 * value / TYPICAL_PIXELS, 5)
            for palette, made in contexts
            for value in typical_bytes(palette, made, values_of(palette, held))
        ]
        parts = BundleParts(recipe, network, model, [rated(p, rates) for p, _ in contexts])
    text = None if card is None else card.read_text()
    palette, tables = files.palette.read_bytes(), files.contexts.read_bytes()
    return bundle_figures(write_parts(parts, palette, tables, output, text), output)


class LatticePaletteTrainer:
    """See :class:`codec.base.Trainer`."""

    recipe = SplitRecipe
    checks: Mapping[str, Check] = {}

    @property
    def steps(self) -> tuple[TrainingStep[SplitRecipe], ...]:
        """From photos to a bundle; ``plan`` makes a recipe for a network that was never cut."""
        return (
            TrainingStep("plan", "Find where to cut a YOLO, and write a recipe.", plan),
            TrainingStep("photos", PHOTOS_SUMMARY, photos_step),
            TrainingStep(
                "views", "Draw views of the photos; run the network.", write_views, ("photos",)
            ),
            TrainingStep("fit", "Train bottleneck and tail end to end.", fit, ("views",)),
            TrainingStep("palette", "Fit every chain's lattice.", write_palettes, ("fit",)),
            TrainingStep("tail", "Train the cloud's half behind them.", fit_tail, ("palette",)),
            TrainingStep("sequences", "Run the network on moving material.", write_sequences),
            TrainingStep("tables", "Fit context networks.", write_contexts, ("palette",)),
            TrainingStep("export", "Write the bundle.", export, ("tail", "tables")),
        )

    def uncut(self, bundle: Bundle) -> UncutFeatures:
        """The network on features that nobody rounded."""
        return UncutFeatures(bundle)

    def stages(self, bundle: Bundle, photo: Pixels) -> Mapping[str, Callable[[], object]]:
        """Resizing, network, rounding with contexts and coding; of the finest chain."""
        codec, (height, width) = LatticeCodec(bundle), photo.shape[:2]
        jobs, features = feature_stages(bundle, photo)
        name = "quantising, contexts and coding"
        return jobs | {name: lambda: codec.encode(features, width, height)}


def _quantisers(recipe: SplitRecipe, files: SplitFiles) -> dict[int, Quantiser]:
    if recipe.nested is not None:
        palette = _palette(recipe, files)
        quantiser = NestedQuantiser(palette, recipe.nested.keep)
        return {row.state: quantiser for row in palette.states}
    return {
        row.state: LatticeQuantiser(palette)
        for palette in palettes_of(recipe, files)
        for row in palette.states
    }


def _palette(recipe: SplitRecipe, files: SplitFiles) -> NestedPalette:
    need(files.palette, "palette")
    assert recipe.nested is not None
    with np.load(files.palette) as arrays:
        return read_nested(recipe.nested, recipe.groups, dict(arrays))


def _write_nested_contexts(
    recipe: SplitRecipe,
    files: SplitFiles,
    model: CutModel,
    views: Views,
    jobs: int,
    bundle: str | None,
    report: Report,
) -> dict[str, Any]:
    need(files.sequences, "sequences")
    palette, part = _palette(recipe, files), recipe.nested_contexts
    (scale,) = recipe.groups

    def channels_of(features: npt.NDArray[np.float16]) -> npt.NDArray[np.float32]:
        with torch.no_grad():
            found = model.latents({scale: torch.from_numpy(features.astype(np.float32))})
        return found[scale].numpy()

    with np.load(files.sequences) as stored:
        clips = [channels_of(stored[name]) for name in stored.files]
    chosen = views.trained[: part.stills]
    stills = [latents_of(model, views, chosen)[scale].numpy()]
    contexts = fit_nested(
        palette,
        clips,
        stills,
        part,
        kept=None if bundle is None else _nested_of(Bundle.load(bundle)),
        jobs=jobs,
        progress=lambda done, total: report(done, total, {}),
    )
    files.contexts.write_bytes(npz(contexts.to_arrays()))
    held = latents_of(model, views, np.arange(views.held_out))
    return {"networks": NestedFiles(palette, contexts).typical_bytes(held, TYPICAL_SIDES)}


def _nested_of(bundle: Bundle) -> NestedContexts:
    """The contexts of a bundle of one chain. Raises RecipeError ``bad_bundle`` for another one."""
    chains = LatticeCodec(bundle).chains
    if len(chains) != 1 or not isinstance(chains[0], NestedChain):
        raise RecipeError("bad_bundle", f"bundle {bundle.manifest.name} is not of nested lattices")
    return chains[0].contexts


def _nested(recipe: SplitRecipe, files: SplitFiles) -> NestedFiles:
    palette = _palette(recipe, files)
    with np.load(files.contexts) as stored:
        return NestedFiles(palette, NestedContexts.from_arrays(palette, dict(stored)))


def palettes_of(recipe: SplitRecipe, files: SplitFiles) -> list[LatticePalette]:
    """What the palette step wrote. Raises RecipeError ``step_missing``."""
    need(files.palette, "palette")
    # Steps only matter when lattices are made.
    steps = [1.0] * len(recipe.bits_per_position)
    with np.load(files.palette) as arrays:
        return read_lattices(recipe.shapes(steps), dict(arrays))


def latents_of(model: CutModel, views: Views, chosen: npt.NDArray[np.int64]) -> dict[str, Tensor]:
    """Channels to quantise of the ``chosen`` views, float32 [n, latent, h, w] by scale."""
    found: dict[str, list[Tensor]] = {}
    with torch.no_grad():
        for start in range(0, len(chosen), _BATCH):
            for name, part in model.latents(views.features(chosen[start : start + _BATCH])).items():
                found.setdefault(name, []).append(part)
    return {name: torch.cat(parts) for name, parts in found.items()}


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
