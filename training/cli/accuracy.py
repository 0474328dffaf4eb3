"""featherwire-train evaluate --coco: accuracy of a task over rate, on an annotated set."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import typer

from shared.cli import stop_on_error


def accuracy(
    source: Path,
    bundles: Sequence[str | None],
    *,
    task: str,
    split: str | None,
    recipe: Path | None,
    output: Path | None,
    limit: int | None,
    every: int,
    rivals: Sequence[str] | None,
    cache: Path | None,
    fresh: bool,
    resamples: int,
    as_json: bool,
) -> None:
    """Measure and print; files in ``output`` where one is given.

    bundles: names, folders or zips, None for the default picture bundle. rivals: names, None for
    all.
    """
    import cv2

    from codec.markov_palette.train.recipe import load_recipe
    from shared.bundle import Bundle
    from training.evaluate.accuracy.page import markdown
    from training.evaluate.accuracy.run import (
        AccuracyPlan,
        evaluate_accuracy,
        needs_annotations,
        write_accuracy,
    )
    from training.evaluate.accuracy.sets import annotated_photos
    from training.evaluate.cache import default_cache_dir

    def say(text: str) -> None:
        typer.echo(text, err=True)

    with stop_on_error(as_json=as_json):
        cv2.setNumThreads(1)
        plan = AccuracyPlan(
            [Bundle.load(name) for name in bundles],
            source.stem if split is None else f"{source.stem}-{split}",
            task,
            rivals=rivals,
            resamples=resamples,
            cache=None if fresh else cache or default_cache_dir(),
        )
        bare = not needs_annotations(plan.bundles, task)
        found = annotated_photos(source, load_recipe(recipe), split, bare=bare)
        photos = islice(islice(found, 0, None, every), limit)
        results = evaluate_accuracy(photos, plan, say)
        if output is not None:
            write_accuracy(output, results, say)
    if as_json:
        json.dump(results.document, sys.stdout)
        sys.stdout.write("\n")
    else:
        typer.echo(markdown(results.document), nl=False)
