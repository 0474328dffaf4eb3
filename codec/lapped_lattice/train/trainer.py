"""The steps from photos to a bundle of pictures for fidelity, by files in the run's folder."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from codec.base import Check, Pixels, Report, TrainingStep
from codec.kit.checkpoint import npz
from codec.kit.crops import PhotoCache
from codec.kit.losses.perception import Perception
from codec.kit.photos import bundle_figures, need
from codec.kit.recipe import PHOTOS_SUMMARY, photos_step
from codec.kit.uncut import UncutFeatures, feature_stages
from codec.lapped_lattice import FAITHFUL, VIVID
from codec.lapped_lattice.coding import LappedCodec
from codec.lapped_lattice.train.basis import Basis, best_basis, read_basis
from codec.lapped_lattice.train.bundle import (
    RunFiles,
    read_contexts,
    read_palette,
    training_numbers,
    typical_bytes,
    with_decoder,
    write_bundle,
    write_contexts,
    write_palette,
)
from codec.lapped_lattice.train.decoders.fit import DecoderFit, checkpoint_of
from codec.lapped_lattice.train.fit import Fit
from codec.lapped_lattice.train.networks import Analysis, Layout
from codec.lapped_lattice.train.recipe import LappedRecipe
from codec.lapped_lattice.train.sequences import write_sequences
from shared.bundle import Bundle
from shared.errors import RecipeError


def start(recipe: LappedRecipe, run: Path, report: Report) -> dict[str, Any]:
    """Choose the channels of the lapped transform that vary most on training photos."""
    files, part = RunFiles(run), recipe.transform
    need(files.cache / "photos.json", "photos")
    cache = PhotoCache(files.cache)
    chosen = np.random.default_rng(recipe.fit.seed).permutation(len(cache))[: part.samples]
    photos = (np.array(cache[int(number)]) for number in chosen)
    basis = best_basis(photos, part.channels, part.chroma)
    files.basis.write_bytes(npz(basis.to_arrays()))
    return {"channels": basis.counts}


def fit(
    recipe: LappedRecipe,
    run: Path,
    report: Report,
    *,
    max_minutes: Annotated[float, "Stop after so long, at a checkpoint; 0: never."] = 0,
) -> dict[str, Any]:
    """Train analysis and decoder; started again it goes on from its checkpoint."""
    files = RunFiles(run)
    job = open_fit(recipe, files)
    done = job.train(report, max_seconds=60 * max_minutes or math.inf)
    return {"done": done, "step": job.step, "steps": job.total_steps, "gains_db": job.gains()}


def open_fit(recipe: LappedRecipe, files: RunFiles) -> Fit:
    """The fit step's job, as far as its checkpoint is. Raises RecipeError ``step_missing``."""
    need(files.basis, "start")
    basis = basis_of(files)
    part, nested = recipe.analysis, recipe.nested
    return Fit(
        recipe.fit_settings(),
        Analysis(basis.counts, part.width, part.blocks),
        recipe.decoder_config(),
        Layout.of(recipe.groups, nested.depths, nested.states, recipe.step),
        basis,
        cache=files.cache,
        run=files.folder,
    )


def basis_of(files: RunFiles) -> Basis:
    """What the start step chose. Raises RecipeError ``step_missing``."""
    need(files.basis, "start")
    with np.load(files.basis) as arrays:
        return read_basis(dict(arrays))


def palette(recipe: LappedRecipe, run: Path, report: Report) -> dict[str, Any]:
    """Make the lattices: limits and means of training photos."""
    files = RunFiles(run)
    made = write_palette(recipe, files, trained(recipe, files).analysis)
    return {"states": len(made.states)}


def sequences(
    recipe: LappedRecipe,
    run: Path,
    report: Report,
    *,
    data: Annotated[Path | None, "The folder that the recipe's sequences are relative to."] = None,
) -> dict[str, Any]:
    """Run the transform on moving material, for contexts of predicted frames."""
    if recipe.sequences is None:
        raise RecipeError(
            "bad_recipe", "the recipe names no sequences: its bundle predicts nothing"
        )
    files, part = RunFiles(run), recipe.sequences
    analysis, cache = trained(recipe, files).analysis, PhotoCache(files.cache)
    frames = write_sequences(
        part,
        analysis,
        cache,
        training_numbers(recipe, cache),
        data or Path(),
        files.sequences,
        lambda done: report(done, done + 1, {}),
    )
    return {"pieces": len(frames), "frames": sum(frames)}


def tables(
    recipe: LappedRecipe,
    run: Path,
    report: Report,
    *,
    jobs: Annotated[int, "Processes that fit networks side by side."] = 1,
) -> dict[str, Any]:
    """Fit the context networks; figures are of held-out photos."""
    files = RunFiles(run)
    analysis = trained(recipe, files).analysis
    return write_contexts(recipe, files, analysis, jobs, lambda done, of: report(done, of, {}))


def export(
    recipe: LappedRecipe,
    run: Path,
    report: Report,
    *,
    output: Annotated[Path, "Folder of the bundle."],
    card: Annotated[Path | None, "A model card (Markdown) to put into the bundle."] = None,
) -> dict[str, Any]:
    """Write the bundle: analysis, lattices, contexts, decoder, manifest."""
    files = RunFiles(run)
    lattices = read_palette(recipe, files)
    contexts = read_contexts(files, lattices)
    job = trained(recipe, files)
    side = recipe.fit.crop
    sizes = typical_bytes(recipe, files, job.analysis, lattices, contexts)
    rates = [round(8 * size / side**2, 5) for size in sizes]
    text = None if card is None else card.read_text()
    photos = None
    if recipe.psnr_photos:
        cache = PhotoCache(files.cache)
        numbers = training_numbers(recipe, cache)[: recipe.psnr_photos]
        photos = (np.array(cache[number]) for number in numbers)
    parts = (lattices, contexts, job.analysis, job.decoder)
    made = write_bundle(recipe, *parts, rates, output, text, photos=photos)
    return bundle_figures(made, output)


def decoder(
    recipe: LappedRecipe,
    run: Path,
    report: Report,
    *,
    bundle: Annotated[Path, "Folder of the bundle whose bits it decodes."],
    name: Annotated[str, "Which of the recipe's decoders."] = VIVID,
    max_minutes: Annotated[float, "Stop after so long, at a checkpoint; 0: never."] = 0,
) -> dict[str, Any]:
    """Train a decoder of a bundle's bits; started again it goes on from its checkpoint.

    Raises ModelError ``weights_missing`` for a loss whose weights are not here.
    """
    job = open_decoder(recipe, RunFiles(run), Bundle.load(bundle), name)
    done = job.train(report, max_seconds=60 * max_minutes or math.inf)
    return {"done": done, "step": job.step, "steps": job.settings.steps}


def open_decoder(recipe: LappedRecipe, files: RunFiles, bundle: Bundle, name: str) -> DecoderFit:
    """The decoder step's job, as far as its checkpoint is. Raises RecipeError ``step_missing``."""
    settings, sizes = recipe.decoder_settings(name)
    need(files.cache / "photos.json", "photos")
    perception = Perception.open(settings.perception_weights) if settings.perceives else None
    where = {"cache": files.cache, "run": files.folder}
    return DecoderFit(name, bundle, settings, sizes, perception=perception, **where)


def attach(
    recipe: LappedRecipe,
    run: Path,
    report: Report,
    *,
    bundle: Annotated[Path, "Folder of the bundle that the decoder was trained for."],
    output: Annotated[Path, "Folder of the bundle that has it."],
    name: Annotated[str, "Which of the recipe's decoders."] = VIVID,
    card: Annotated[Path | None, "A model card (Markdown) in place of the bundle's."] = None,
) -> dict[str, Any]:
    """Put a decoder into a bundle; all else stays as it is. The faithful one takes the place of the
    one that is there, and the PSNR model is fitted again."""
    files, source = RunFiles(run), Bundle.load(bundle)
    need(checkpoint_of(run, name), "decoder")
    made = open_decoder(recipe, files, source, name).averaged()
    text = None if card is None else card.read_text()
    cache = PhotoCache(files.cache)
    numbers = training_numbers(recipe, cache)[: recipe.psnr_photos] if name == FAITHFUL else []
    photos = [np.array(cache[number]) for number in numbers]
    return bundle_figures(with_decoder(source, name, made, output, text, photos=photos), output)


def trained(recipe: LappedRecipe, files: RunFiles) -> Fit:
    """The fit's networks with their averaged weights. Raises RecipeError ``step_missing``."""
    need(files.checkpoint, "fit")
    job = open_fit(recipe, files)
    job.averaged()
    return job


class LappedTrainer:
    """See :class:`codec.base.Trainer`."""

    recipe = LappedRecipe
    checks: Mapping[str, Check] = {}

    @property
    def steps(self) -> tuple[TrainingStep[LappedRecipe], ...]:
        """From photos to a bundle."""
        return (
            TrainingStep("photos", PHOTOS_SUMMARY, photos_step),
            TrainingStep("start", "Choose the transform's channels.", start, ("photos",)),
            TrainingStep("fit", "Train analysis and decoder.", fit, ("start",)),
            TrainingStep("palette", "Make the lattices.", palette, ("fit",)),
            TrainingStep("sequences", "Run the transform on moving material.", sequences, ("fit",)),
            TrainingStep("tables", "Fit context networks.", tables, ("palette",)),
            TrainingStep("export", "Write the bundle.", export, ("tables",)),
            TrainingStep("decoder", "Train a decoder of its bits.", decoder, ("export",)),
            TrainingStep("attach", "Put that decoder into the bundle.", attach, ("decoder",)),
        )

    def uncut(self, bundle: Bundle) -> UncutFeatures:
        """The transform's values, which nobody rounded."""
        return UncutFeatures(bundle)

    def stages(self, bundle: Bundle, photo: Pixels) -> Mapping[str, Callable[[], object]]:
        """Padding, transform, and rounding with contexts and coding."""
        codec, (height, width) = LappedCodec(bundle), photo.shape[:2]
        jobs, features = feature_stages(bundle, photo)
        name = "quantising, contexts and coding"
        return jobs | {name: lambda: codec.encode(features, width, height)}
