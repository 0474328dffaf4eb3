"""featherwire-train evaluate: a bundle beside the rivals, on photos never trained on.

With ``--coco`` it is the accuracy of a task instead, see :mod:`training.cli.accuracy`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.cli import stop_on_error
from training.cli.steps import JsonOption, RecipeOption

_ALL_METRICS = "pixels,squeeze,vgg,tasks"


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("evaluate")(evaluate)


def evaluate(
    photos: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Photos, folders or tars; of what the recipe trains on, what it keeps out."
        ),
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="Bundle folder, zip or name.")] = None,
    coco: Annotated[
        Path | None,
        typer.Option(
            help="Accuracy of --task instead, on an annotated set: a folder with annotations/ and "
            "images/, a folder or tar with instances.json, or one with *_labels.png."
        ),
    ] = None,
    split: Annotated[
        str | None, typer.Option(help="With --coco: which annotations/instances_SPLIT.json.")
    ] = None,
    task: Annotated[str, typer.Option(help="With --coco: the task.")] = "detection",
    beside: Annotated[
        list[str] | None,
        typer.Option(help="With --coco: another bundle, feature or picture. Repeatable."),
    ] = None,
    recipe: RecipeOption = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for JSON, table.md and plots.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many photos.")] = None,
    every: Annotated[
        int, typer.Option(min=1, help="Take every so-manieth photo: more people of a set of faces.")
    ] = 1,
    side: Annotated[int, typer.Option(min=64, help="Reduce photos to this long side.")] = 512,
    metrics: Annotated[
        str, typer.Option(help="Groups of metrics, comma-separated.")
    ] = _ALL_METRICS,
    vgg_limit: Annotated[
        int | None, typer.Option(min=0, help="VGG's metrics, the slow ones, on so many photos.")
    ] = None,
    rivals: Annotated[bool, typer.Option(help="Measure JPEG, WebP, AVIF and JPEG XL too.")] = True,
    neural: Annotated[
        str | None,
        typer.Option(help="A CompressAI architecture too (mbt2018-mean ...); downloads weights."),
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of points measured before. Default: ~/.cache/featherwire/bench."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Use and keep no cache.")] = False,
    resamples: Annotated[
        int, typer.Option(min=0, max=10_000, help="Resamples of the photos, for intervals.")
    ] = 500,
    as_json: JsonOption = False,
) -> None:
    """Measure every state of a bundle, and rivals at several qualities: whole files; pixels,
    perception, and what tasks still find; rate differences with intervals.

    With --coco: what share of a task's uncompressed accuracy is kept for how many bits, photos at
    their own size."""
    from itertools import islice

    if (coco is None) == (not photos):
        raise typer.BadParameter("give photos, or an annotated set with --coco DIR, not both")
    if coco is not None:
        from training.cli.accuracy import accuracy

        accuracy(
            coco,
            [bundle, *(beside or [])],
            task=task,
            split=split,
            recipe=recipe,
            output=output,
            limit=limit,
            every=every,
            rivals=None if rivals else [],
            cache=cache,
            fresh=fresh,
            resamples=resamples,
            as_json=as_json,
        )
        return
    assert photos

    from codec.markov_palette.train.recipe import load_recipe
    from shared.bundle import Bundle
    from training.evaluate.cache import default_cache_dir
    from training.evaluate.photos import evaluation_photos
    from training.evaluate.report import averages_table, markdown
    from training.evaluate.rivals import rivals as all_rivals
    from training.evaluate.run import Plan, write_results
    from training.evaluate.run import evaluate as measure_and_compare

    def say(text: str) -> None:
        typer.echo(text, err=True)

    with stop_on_error(as_json=as_json):
        others = all_rivals() if rivals else []
        if neural is not None:
            from training.evaluate.neural import neural_rivals

            others += neural_rivals(neural)
        plan = Plan(
            Bundle.load(bundle),
            "+".join(path.stem for path in photos[:4]),
            side,
            groups=metrics.split(","),
            rivals=others,
            limits={} if vgg_limit is None else {"vgg": vgg_limit},
            resamples=resamples,
            cache=None if fresh else cache or default_cache_dir(),
        )
        found = islice(evaluation_photos(photos, side, load_recipe(recipe)), 0, None, every)
        chosen = islice(found, limit)
        results = measure_and_compare(chosen, plan, say)
    if not results.measurements.points:
        typer.echo("error: no readable photo [no_photos]", err=True)
        raise typer.Exit(1)
    if output is not None:
        write_results(output, results, say)
    if as_json:
        json.dump(results.document, sys.stdout)
        sys.stdout.write("\n")
    elif rivals:
        typer.echo(markdown(results.document), nl=False)
    else:
        typer.echo(averages_table(results.document["averages"]), nl=False)
