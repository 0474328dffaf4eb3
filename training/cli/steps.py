"""featherwire-train photos, texture, plan, fit, palette, tables, export."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.cli import stop_on_error

if TYPE_CHECKING:
    from torch import nn

    from codec.kit.textures import TextureLabels
    from codec.markov_palette.train.fit import Fit
    from codec.markov_palette.train.recipe import Recipe

RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", help="Recipe file. Default: the picture bundle's.")
]
RunOption = Annotated[Path, typer.Option("--run", help="Folder of this run's results.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DEFAULT_RUN = Path("runs/picture")


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    for command in (photos, texture, plan, fit, palette, tables, export):
        app.command(command.__name__)(command)


def photos(
    data: Annotated[Path, typer.Option("--data", help="Folder that the recipe's paths start at.")],
    recipe: RecipeOption = None,
    run: RunOption = DEFAULT_RUN,
    as_json: JsonOption = False,
) -> None:
    """Decode and reduce the training photos once, leaving out what looks like evaluation photos."""
    from codec.kit.photos import make_cache
    from codec.markov_palette.train.bundle import RunFiles
    from codec.markov_palette.train.recipe import load_recipe
    from shared.errors import RecipeError

    with stop_on_error(as_json=as_json):
        followed = load_recipe(recipe)
        for part in [*(s.path for s in followed.photos.sources), *followed.photos.exclude]:
            if not (data / part).exists():
                raise RecipeError("not_found", f"{data / part} does not exist")
        with progress_bar("photos") as advance:
            index = make_cache(
                followed.photos.below(data),
                [data / part for part in followed.photos.exclude],
                RunFiles(run).cache,
                short_side=followed.photos.short_side,
                progress=lambda name: advance(None, None, {}),
            )
    print_values(
        {"photos": len(index["photos"]), "left_out": index["left_out"], "sha256": index["sha256"]},
        as_json,
    )


def texture(
    recipe: RecipeOption = None,
    run: RunOption = DEFAULT_RUN,
    depth: Annotated[int, typer.Option(min=1, max=12, help="2**DEPTH textures.")] = 6,
    sample: Annotated[
        int, typer.Option(min=1, help="Photos that the textures are found on; all are labelled.")
    ] = 800,
    as_json: JsonOption = False,
) -> None:
    """Label the training photos' patches by texture, for the fit step's contrastive loss."""
    from safetensors.torch import load_file

    from codec.kit.backbone import CLASSIFIER
    from codec.kit.textures import TextureSettings, make_labels
    from codec.markov_palette.train.bundle import RunFiles
    from codec.markov_palette.train.recipe import load_recipe
    from shared.weights import ModelStore

    with stop_on_error(as_json=as_json):
        followed = load_recipe(recipe)
        files = RunFiles(run)
        need(files.cache / "photos.json", "photos")
        weights = load_file(ModelStore().path(CLASSIFIER.model))
        settings = TextureSettings(depth=depth, sample_photos=sample)
        with progress_bar("texture") as advance:
            figures = make_labels(
                files.cache, weights, settings, followed.fit.seed,
                lambda step, total: advance(step, total, {}),
            )  # fmt: skip
    print_values(figures, as_json)


def plan(
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file to write.")],
    recipe: RecipeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write what `python -m codec.markov_palette.train` needs to run fit on a bare machine."""
    from dataclasses import asdict

    from codec.markov_palette.train.recipe import load_recipe

    with stop_on_error(as_json=as_json):
        followed = load_recipe(recipe)
    values = {
        "fit": asdict(followed.fit_config()),
        "extractor": followed.extractor_config().to_dict(),
        "decoder": followed.decoder_config().to_dict(),
        "bf16": followed.fit.bf16,
    }
    output.write_text(json.dumps(values, indent=1) + "\n")
    print_values({"plan": str(output)}, as_json)


def fit(
    recipe: RecipeOption = None,
    run: RunOption = DEFAULT_RUN,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop after so long, at a checkpoint.")
    ] = None,
    perceptual: Annotated[
        bool, typer.Option(help="Use the LPIPS-like loss (its weights come from the model store).")
    ] = True,
    joint_steps: Annotated[int | None, typer.Option(help="Change the recipe's step count.")] = None,
    decoder_steps: Annotated[int | None, typer.Option(help="The same for the last stage.")] = None,
    batch: Annotated[int | None, typer.Option(help="Change the recipe's batch size.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Train extractor, palettes and decoder; started again it goes on from its checkpoint."""
    from codec.markov_palette.train.bundle import RunFiles
    from codec.markov_palette.train.recipe import load_recipe

    changes = {"joint_steps": joint_steps, "decoder_steps": decoder_steps, "batch": batch}
    with stop_on_error(as_json=as_json):
        followed = load_recipe(recipe, {k: v for k, v in changes.items() if v is not None})
        files = RunFiles(run)
        need(files.cache / "photos.json", "photos")
        job = fit_job(followed, files.cache, run, device, perceptual=perceptual)
        limit = math.inf if max_minutes is None else 60 * max_minutes
        with progress_bar("fit") as advance:
            done = job.train(advance, max_seconds=limit)
    print_values({"done": done, "step": job.step, "steps": job.total_steps}, as_json)


def palette(
    recipe: RecipeOption = None, run: RunOption = DEFAULT_RUN, as_json: JsonOption = False
) -> None:
    """Put the fitted trees on their integer grid, and show what each merge costs (Ward)."""
    from codec.markov_palette.train.bundle import RunFiles, merge_costs, write_palette
    from codec.markov_palette.train.recipe import load_recipe

    with stop_on_error(as_json=as_json):
        costs = merge_costs(write_palette(load_recipe(recipe), RunFiles(run)).palette)
    rounded = {name: [round(cost, 6) for cost in row] for name, row in costs.items()}
    print_values({"merge_cost_fine_to_coarse": rounded}, as_json)


def tables(
    recipe: RecipeOption = None,
    run: RunOption = DEFAULT_RUN,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Fit the context networks to the indices of training photos; say what they save."""
    from codec.markov_palette.train.bundle import RunFiles, write_tables
    from codec.markov_palette.train.recipe import load_recipe

    with stop_on_error(as_json=as_json), progress_bar("tables") as advance:
        figures = write_tables(
            load_recipe(recipe),
            RunFiles(run),
            lambda step, total: advance(step, total, {}),
            device=device,
        )
    print_values(figures, as_json)


def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the bundle.")],
    recipe: RecipeOption = None,
    run: RunOption = DEFAULT_RUN,
    card: Annotated[
        Path | None, typer.Option(help="A model card (Markdown) to put into the bundle.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the bundle: extractor as ONNX, palette, tables, decoder, manifest."""
    from codec.markov_palette.train.bundle import RunFiles, write_bundle
    from codec.markov_palette.train.recipe import load_recipe

    with stop_on_error(as_json=as_json):
        text = card.read_text() if card is not None else None
        bundle = write_bundle(load_recipe(recipe), RunFiles(run), output, text)
        bundle.verify()
    sizes = {name: entry.size_bytes for name, entry in bundle.manifest.files.items()}
    print_values({"bundle": str(output), "id": bundle.id, "bytes": sizes}, as_json)


def fit_job(recipe: Recipe, cache: Path, run: Path, device: str, *, perceptual: bool) -> Fit:
    """The fit step of a recipe, with the losses that it wants from the model store.

    Raises ModelError ``weights_missing`` for a loss whose weights are not here, RecipeError
    ``step_missing`` when it wants textures that nobody has labelled.
    """
    from codec.kit.losses import LOSSES, load_losses
    from codec.kit.textures import LABELS_FILE
    from codec.markov_palette.train.fit import Fit
    from shared.weights import ModelStore

    config = recipe.fit_config()
    if config.texture_weight > 0:
        need(cache / LABELS_FILE, "texture")
    store = ModelStore()
    wanted = {
        name: store.path(LOSSES[name].model) for name, w in config.feature_weights.items() if w > 0
    }
    return Fit(
        config,
        recipe.extractor_config(),
        recipe.decoder_config(),
        cache=cache,
        run=run,
        device=device,
        bf16=recipe.fit.bf16,
        perceptual=_perceptual() if perceptual else None,
        features=load_losses(wanted),
        labels=_labels(cache) if config.texture_weight > 0 else None,
    )


def _labels(cache: Path) -> TextureLabels:
    from codec.kit.textures import TextureLabels
    from shared.errors import RecipeError

    try:
        return TextureLabels(cache)
    except ValueError as error:
        raise RecipeError("step_missing", str(error)) from None


def _perceptual() -> nn.Module:
    from safetensors.torch import load_file

    from codec.kit.losses import PerceptualDistance
    from shared.weights import ModelStore

    store = ModelStore()
    return PerceptualDistance(
        load_file(store.path("squeezenet-1.1")), load_file(store.path("lpips-squeeze")), even=True
    )


def need(path: Path, step: str) -> None:
    """Raise RecipeError ``step_missing`` when a step's result is not there."""
    from shared.errors import RecipeError

    if not path.exists():
        raise RecipeError("step_missing", f"{path} is missing; run the {step} step first")


def print_values(values: dict[str, Any], as_json: bool) -> None:
    """A command's result on stdout: one JSON document, or a line for each value."""
    if as_json:
        json.dump(values, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    for key, value in values.items():
        typer.echo(f"{key.replace('_', ' ')}: {value}")


@contextmanager
def progress_bar(name: str) -> Iterator[Callable[[int | None, int | None, dict[str, float]], None]]:
    """A progress bar on stderr: call it with (step, total, figures), any of them None."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[figures]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(name, total=None, figures="")

        def advance(step: int | None, total: int | None, figures: dict[str, float]) -> None:
            text = "  ".join(f"{key} {value:.4g}" for key, value in figures.items())
            if step is None:
                progress.update(task, advance=1, figures=text)
            else:
                progress.update(task, completed=step, total=total, figures=text)

        yield advance
