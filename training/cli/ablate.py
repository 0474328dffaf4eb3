"""featherwire-train ablate: short runs that differ in one setting, compared."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Annotated

import typer

from shared.cli import JsonOption, print_document, stop_on_error
from training.cli.steps import ChangeOption, RecipeOption, RunOption, run_step


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
    change: ChangeOption = None,
    run: RunOption = None,
    start: Annotated[
        Path | None, typer.Option(help="Checkpoint that every run goes on from. Default: none.")
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

    from codec.kit.checkpoint import CHECKPOINT
    from codec.kit.photos import CACHE, need
    from codec.kit.recipe import open_recipe
    from shared.bundle import Bundle
    from shared.errors import RecipeError
    from training.ablation import compare, markdown, steps_from_fit, write
    from training.evaluate.photos import evaluation_photos

    def say(text: str) -> None:
        typer.echo(text, err=True)

    changes = tuple(change or ())
    with stop_on_error(as_json=as_json):
        trainer, whole = open_recipe(recipe)
        cache = (run or Path("runs") / whole.name) / CACHE
        need(cache / "photos.json", "photos")
        recipes = {
            f"{setting} {number:g}": open_recipe(recipe, (*changes, f"fit.{setting}={number}"))[1]
            for number in value or [0.0, 0.004]
        }
        if len(recipes) < 2:
            raise RecipeError("bad_recipe", "an ablation needs two different values or more")
        chosen = list(islice(evaluation_photos(photos, side, whole), limit))
        if not chosen:
            raise RecipeError("no_photos", "no readable photo to measure on")
        bundles = {}
        for name, followed in recipes.items():
            folder = output / name.replace(" ", "-")
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / CACHE).exists():
                (folder / CACHE).symlink_to(cache.resolve())
            if start is not None and not (folder / CHECKPOINT).exists():
                shutil.copyfile(start, folder / CHECKPOINT)
            options = {"device": device, "perceptual": perceptual}
            *before, last = steps_from_fit(trainer)
            for step in before:
                run_step(step, followed, folder, options)
            run_step(last, followed, folder, options | {"output": folder / "bundle"})
            bundles[name] = Bundle.load(folder / "bundle")
            say(f"{name}: bundle {bundles[name].id[:16]}")
        document = compare(bundles, chosen, cache, metrics.split(","), say)
        document["fit"] = followed.model_dump(mode="json")["fit"]
        write(output, document)
    if as_json:
        print_document(document)
    else:
        typer.echo(markdown(document), nl=False)
