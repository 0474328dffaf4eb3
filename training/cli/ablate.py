"""featherwire-train ablate: short runs that differ in one setting, compared."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.cli import stop_on_error
from training.cli.steps import (
    DEFAULT_RUN,
    JsonOption,
    RecipeOption,
    RunOption,
    fit_job,
    need,
    progress_bar,
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("ablate")(ablate)


def ablate(
    photos: Annotated[
        list[Path], typer.Argument(help="Photos, folders or tars to measure on, never trained on.")
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder of the runs, ablation.json and .md.")
    ],
    setting: Annotated[
        str, typer.Option(help="The recipe's fit setting that differs.")
    ] = "texture_weight",
    value: Annotated[
        list[float] | None,
        typer.Option(help="Its values, each a run; the first is the baseline. Default: 0, 0.004."),
    ] = None,
    recipe: RecipeOption = None,
    run: RunOption = DEFAULT_RUN,
    start: Annotated[
        Path | None, typer.Option(help="Checkpoint that every run goes on from. Default: none.")
    ] = None,
    joint_steps: Annotated[int | None, typer.Option(help="Change the recipe's step count.")] = None,
    decoder_steps: Annotated[int | None, typer.Option(help="The same for the last stage.")] = None,
    batch: Annotated[int | None, typer.Option(help="Change the recipe's batch size.")] = None,
    crop: Annotated[int | None, typer.Option(help="Change the recipe's crop size.")] = None,
    context_photos: Annotated[
        int | None, typer.Option(min=2, help="Photos that context networks are fitted on.")
    ] = None,
    context_steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of the context networks' fit.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=2, help="Measure on so many photos.")] = None,
    side: Annotated[int, typer.Option(min=64, help="Reduce photos to this long side.")] = 384,
    metrics: Annotated[
        str, typer.Option(help="Groups of metrics, comma-separated.")
    ] = "pixels,squeeze,vgg",
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 ...")] = "cpu",
    perceptual: Annotated[bool, typer.Option(help="Use the LPIPS-like loss.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Train once for each value of a setting with everything else equal (seed, crops, steps),
    make bundles of the runs, and compare whole files on photos never trained on."""
    from itertools import islice

    from codec.markov_palette.train.bundle import RunFiles
    from codec.markov_palette.train.recipe import load_recipe
    from shared.errors import RecipeError
    from training.ablation import compare, finish, markdown, write
    from training.evaluate.photos import evaluation_photos

    given = {
        "joint_steps": joint_steps, "decoder_steps": decoder_steps, "batch": batch, "crop": crop,
    }  # fmt: skip
    changes = {key: number for key, number in given.items() if number is not None}
    wanted = {"photos": context_photos, "steps": context_steps}
    contexts = {key: number for key, number in wanted.items() if number is not None}

    def say(text: str) -> None:
        typer.echo(text, err=True)

    with stop_on_error(as_json=as_json):
        cache = RunFiles(run).cache
        need(cache / "photos.json", "photos")
        recipes = {
            f"{setting} {number:g}": load_recipe(recipe, {**changes, setting: number})
            for number in value or [0.0, 0.004]
        }
        if len(recipes) < 2:
            raise RecipeError("bad_recipe", "an ablation needs two different values or more")
        chosen = list(islice(evaluation_photos(photos, side, load_recipe(recipe)), limit))
        if not chosen:
            raise RecipeError("no_photos", "no readable photo to measure on")
        bundles = {}
        for name, followed in recipes.items():
            files = RunFiles(output / name.replace(" ", "-"))
            files.folder.mkdir(parents=True, exist_ok=True)
            if not files.cache.exists():
                files.cache.symlink_to(cache.resolve())
            if start is not None and not files.checkpoint.exists():
                shutil.copyfile(start, files.checkpoint)
            job = fit_job(followed, cache, files.folder, device, perceptual=perceptual)
            with progress_bar(name) as advance:
                job.train(advance)
            tables = followed.tables.model_copy(update=contexts)
            bundles[name] = finish(
                followed.model_copy(update={"tables": tables}), files, device, say
            )
        document = compare(bundles, chosen, cache, metrics.split(","), say)
        document["steps"] = {
            "joint": followed.fit.joint_steps,
            "decoder": followed.fit.decoder_steps,
        }
        write(output, document)
    if as_json:
        json.dump(document, sys.stdout)
        sys.stdout.write("\n")
    else:
        typer.echo(markdown(document), nl=False)
