"""featherwire-train evaluate, consistency: a bundle beside baselines, on photos it never saw.

With ``--coco`` it is the accuracy of a task instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.cli import JsonOption, print_document, stop_on_error
from shared.errors import FeatherwireError, RecipeError
from training.cli.steps import RecipeOption

if TYPE_CHECKING:
    from training.evaluate.photos import EvaluationPhoto

_ALL_METRICS = "pixels,squeeze,vgg,tasks"


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("evaluate")(evaluate)
    app.command("consistency")(consistency)


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
    decoder: Annotated[
        str | None,
        typer.Option(help="Which of the bundle's decoders makes the pictures. Default: its first."),
    ] = None,
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
    """Measure every state of a bundle, and baselines at several qualities: whole files; pixels,
    perception, and what tasks still find; rate differences with intervals.

    With --coco: what share of a task's uncompressed accuracy is kept for how many bits, photos at
    their own size."""
    if (coco is None) == (not photos):
        raise typer.BadParameter("give photos, or an annotated set with --coco DIR, not both")

    from codec.kit.recipe import open_recipe
    from shared.bundle import Bundle
    from training.evaluate import run
    from training.evaluate.measure import default_cache_dir
    from training.evaluate.photos import annotated_photos, evaluation_photos
    from training.evaluate.report import accuracy, pictures

    kept = None if fresh else cache or default_cache_dir()
    with stop_on_error(as_json=as_json):
        _, followed = open_recipe(recipe)
        if coco is not None:
            import cv2

            cv2.setNumThreads(1)
            bundles = [Bundle.load(name) for name in [bundle, *(beside or [])]]
            name = coco.stem if split is None else f"{coco.stem}-{split}"
            baselines = None if rivals else ()
            plan = run.AccuracyPlan(
                bundles, name, task, baselines, resamples, kept, decoder=decoder
            )
            bare = not run.needs_annotations(bundles, task)
            annotated = annotated_photos(coco, followed, split, bare=bare)
            found = run.evaluate_accuracy(_chosen(annotated, every, limit), plan, _say)
            if output is not None:
                run.write_accuracy(output, found, _say)
            document, text = found.document, accuracy.markdown(found.document)
        else:
            assert photos
            from training.evaluate.baselines import neural_baselines, picture_baselines

            others = picture_baselines() if rivals else []
            picture_plan = run.PicturePlan(
                Bundle.load(bundle),
                "+".join(path.stem for path in photos[:4]),
                side,
                groups=metrics.split(","),
                baselines=others + (neural_baselines(neural) if neural is not None else []),
                limits={} if vgg_limit is None else {"vgg": vgg_limit},
                resamples=resamples,
                cache=kept,
                decoder=decoder,
            )
            chosen = _chosen(evaluation_photos(photos, side, followed), every, limit)
            results = run.evaluate_pictures(chosen, picture_plan, _say)
            if not results.measurements.photos:
                raise _no_photo()
            if output is not None:
                run.write_pictures(output, results, _say)
            document = results.document
            table = pictures.averages_table(document["averages"])
            text = pictures.markdown(document) if rivals else table
    _print(document, text, as_json)


def consistency(
    photos: Annotated[list[Path], typer.Argument(help="Photos, folders or tars.")],
    bundle: Annotated[str | None, typer.Option(help="Bundle folder, zip or name.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many photos.")] = None,
    side: Annotated[int, typer.Option(min=64, help="Reduce photos to this long side.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the sampler.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Reconstruct at every state, faithfully and vividly, encode again, and compare indices."""
    from codec.base import trainer
    from codec.kit.recipe import open_recipe
    from shared.bundle import Bundle
    from shared.errors import BundleError
    from training.evaluate.photos import evaluation_photos

    with stop_on_error(as_json=as_json):
        opened = Bundle.load(bundle)
        codec = opened.manifest.codec
        check = trainer(codec).checks.get("consistency")
        if check is None:
            raise BundleError("unsupported", f"codec {codec} has nothing that could be consistent")
        found = _chosen(evaluation_photos(photos, side, open_recipe()[1]), 1, limit)
        rows = check(opened, (photo.pixels for photo in found), cache=None, seed=seed)
        if not rows:
            raise _no_photo()
    lines = [
        "| state | sampled latents | vivid picture again | faithful picture again |",
        "| ---: | ---: | ---: | ---: |",
        *(
            f"| {row['state']} | {row['latents']:.4f} | {row['vivid']:.3f} | "
            f"{row['faithful']:.3f} |"
            for row in rows
        ),
    ]
    _print({"states": rows}, "\n".join(lines) + "\n", as_json)


def _chosen(
    photos: Iterator[EvaluationPhoto], every: int, limit: int | None
) -> Iterator[EvaluationPhoto]:
    return islice(islice(photos, 0, None, every), limit)


def _say(text: str) -> None:
    typer.echo(text, err=True)


def _no_photo() -> FeatherwireError:
    return RecipeError("no_photos", "no readable photo")


def _print(document: Any, text: str, as_json: bool) -> None:
    if as_json:
        print_document(document)
    else:
        typer.echo(text, nl=False)
