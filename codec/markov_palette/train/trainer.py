"""The steps that make a bundle of Markov palettes, from photos to export."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from codec.base import Check, Pixels, Report, TrainingStep
from codec.kit.photos import bundle_figures, need
from codec.kit.recipe import PHOTOS_SUMMARY, photos_step
from codec.markov_palette.train.recipe import Recipe
from codec.markov_palette.train.temporal.steps import write_sequences, write_temporal
from shared.bundle import Bundle
from shared.errors import RecipeError
from shared.weights import ModelStore

if TYPE_CHECKING:
    from codec.kit.losses.textures import TextureLabels
    from codec.kit.uncut import UncutFeatures
    from codec.latents import Features

Device = Annotated[str, "cpu, cuda, cuda:1 ..."]


def texture(
    recipe: Recipe,
    run: Path,
    report: Report,
    *,
    depth: Annotated[int, "2**DEPTH textures."] = 6,
    sample: Annotated[int, "Photos that the textures are found on; all are labelled."] = 800,
) -> dict[str, Any]:
    """Label the training photos' patches by texture, for the fit step's contrastive loss."""
    from safetensors.torch import load_file

    from codec.kit.losses.frozen import CLASSIFIER
    from codec.kit.losses.textures import TextureSettings, make_labels
    from codec.markov_palette.train.bundle import RunFiles

    files = RunFiles(run)
    need(files.cache / "photos.json", "photos")
    if not 1 <= depth <= 12 or sample < 1:
        raise RecipeError("bad_recipe", "--depth takes 1 to 12, --sample at least 1")
    return make_labels(
        files.cache,
        load_file(ModelStore().path(CLASSIFIER.model)),
        TextureSettings(depth=depth, sample_photos=sample),
        recipe.fit.seed,
        lambda done, total: report(done, total, {}),
    )


def plan(
    recipe: Recipe, run: Path, report: Report, *, output: Annotated[Path, "JSON file to write."]
) -> dict[str, Any]:
    """Write what `python -m codec.markov_palette.train.fit` needs to run fit on a bare machine."""
    values = {
        "fit": asdict(recipe.fit_config()),
        "extractor": recipe.extractor_config().to_dict(),
        "decoder": recipe.decoder_config().to_dict(),
        "bf16": recipe.fit.bf16,
    }
    output.write_text(json.dumps(values, indent=1) + "\n")
    return {"plan": str(output)}


def fit(
    recipe: Recipe,
    run: Path,
    report: Report,
    *,
    device: Device = "cpu",
    max_minutes: Annotated[float, "Stop after so long, at a checkpoint; 0: never."] = 0,
    perceptual: Annotated[
        bool, "Use the LPIPS-like loss (its weights come from the model store)."
    ] = True,
) -> dict[str, Any]:
    """Train extractor, palettes and decoder; started again it goes on from its checkpoint.

    Raises ModelError ``weights_missing`` for a loss whose weights are not here.
    """
    from codec.kit.losses.perception import feature_losses, perceptual_distance
    from codec.kit.losses.textures import LABELS_FILE
    from codec.markov_palette.train.bundle import RunFiles
    from codec.markov_palette.train.fit import Fit

    files, config, store = RunFiles(run), recipe.fit_config(), ModelStore()
    need(files.cache / "photos.json", "photos")
    textures = config.texture_weight > 0
    if textures:
        need(files.cache / LABELS_FILE, "texture")
    job = Fit(
        config,
        recipe.extractor_config(),
        recipe.decoder_config(),
        cache=files.cache,
        run=run,
        device=device,
        bf16=recipe.fit.bf16,
        perceptual=perceptual_distance(store) if perceptual else None,
        features=feature_losses(config.feature_weights, store),
        labels=_labels(files.cache) if textures else None,
    )
    done = job.train(report, max_seconds=60 * max_minutes or math.inf)
    return {"done": done, "step": job.step, "steps": job.total_steps}


def palette(recipe: Recipe, run: Path, report: Report) -> dict[str, Any]:
    """Put the fitted trees on their integer grid, and show what each merge costs (Ward)."""
    from codec.markov_palette.train.bundle import RunFiles, merge_costs, write_palette

    costs = merge_costs(write_palette(recipe, RunFiles(run)).chains[0].palette)
    rounded = {name: [round(cost, 6) for cost in row] for name, row in costs.items()}
    return {"merge_cost_fine_to_coarse": rounded}


def tables(recipe: Recipe, run: Path, report: Report, *, device: Device = "cpu") -> dict[str, Any]:
    """Fit the context networks to the indices of training photos; say what they save."""
    from codec.markov_palette.train.bundle import RunFiles, write_tables

    files = RunFiles(run)
    return write_tables(recipe, files, lambda done, of: report(done, of, {}), device=device)


def export(
    recipe: Recipe,
    run: Path,
    report: Report,
    *,
    output: Annotated[Path, "Folder of the bundle."],
    card: Annotated[Path | None, "A model card (Markdown) to put into the bundle."] = None,
) -> dict[str, Any]:
    """Write the bundle: extractor as ONNX, palette, tables, decoder, manifest."""
    from codec.markov_palette.train.bundle import RunFiles, write_bundle

    text = None if card is None else card.read_text()
    return bundle_figures(write_bundle(recipe, RunFiles(run), output, text), output)


class MarkovPaletteTrainer:
    """See :class:`codec.base.Trainer`."""

    recipe = Recipe

    @property
    def steps(self) -> tuple[TrainingStep[Recipe], ...]:
        """From photos to a bundle; ``plan`` is for fitting on another machine."""
        return (
            TrainingStep("photos", PHOTOS_SUMMARY, photos_step),
            TrainingStep("texture", "Label patches, for texture_weight > 0.", texture, ("photos",)),
            TrainingStep("plan", "Write a plan to run fit on a bare machine.", plan),
            TrainingStep("fit", "Train extractor, palettes and decoder.", fit, ("photos",)),
            TrainingStep("palette", "Put the trees on their integer grid.", palette, ("fit",)),
            TrainingStep("tables", "Fit context networks.", tables, ("fit", "photos")),
            TrainingStep("sequences", "Run the network on moving material.", write_sequences),
            TrainingStep(
                "temporal",
                "Fit what predicted frames need.",
                write_temporal,
                ("tables", "sequences"),
            ),
            TrainingStep("export", "Write the bundle.", export, ("tables",)),
        )

    @property
    def checks(self) -> Mapping[str, Check]:
        """``consistency`` and ``meaning``."""
        from codec.markov_palette.train.checks import consistency, meaning

        return {"consistency": consistency, "meaning": meaning}

    def uncut(self, bundle: Bundle) -> UncutFeatures:
        """The network on features that no palette replaced."""
        from codec.kit.uncut import UncutFeatures
        from codec.markov_palette.coding import MarkovPaletteCodec

        codec = MarkovPaletteCodec(bundle).chains[0]

        def as_decoded(features: Features) -> Features:
            """What decoders take of a predicted scale is its residual."""
            indices = codec.quantise(features)
            return {name: codec.palette.residual(features, name, indices) for name in features}

        return UncutFeatures(bundle, as_decoded)

    def stages(self, bundle: Bundle, photo: Pixels) -> Mapping[str, Callable[[], object]]:
        """Padding, network, quantising, contexts with coding; of the finest chain."""
        from codec.kit.uncut import feature_stages
        from codec.markov_palette.coding import MarkovPaletteCodec

        codec = MarkovPaletteCodec(bundle).chains[0]
        jobs, features = feature_stages(bundle, photo)
        indices, (height, width) = codec.quantise(features), photo.shape[:2]
        return jobs | {
            "quantise": lambda: codec.quantise(features),
            "contexts and coding, all states": lambda: codec.code(indices, width, height),
        }


def _labels(cache: Path) -> TextureLabels:
    from codec.kit.losses.textures import TextureLabels

    try:
        return TextureLabels(cache)
    except ValueError as error:
        raise RecipeError("step_missing", str(error)) from None
