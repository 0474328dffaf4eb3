"""Curves over rate, of pictures and of a task: results into a folder of the set."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2

from benchmarks.published import published_table
from codec.kit.recipe import open_recipe
from shared.bundle import Bundle, packaged_names
from training.evaluate import run
from training.evaluate.measure import default_cache_dir
from training.evaluate.photos import annotated_photos, evaluation_photos
from training.evaluate.report import accuracy, pictures

Say = Callable[[str], None]


def picture_curves(
    bundle: Bundle, sources: list[Path], name: str, arguments: argparse.Namespace, say: Say
) -> str:
    """``curves.json``, ``points.json``, ``table.md`` and plots of one set; returns the page."""
    plan = run.PicturePlan(
        bundle,
        name,
        arguments.side,
        groups=arguments.metrics.split(","),
        limits={} if arguments.vgg_limit is None else {"vgg": arguments.vgg_limit},
        resamples=arguments.resamples,
        fetch=True,
        cache=arguments.cache or default_cache_dir(),
        decoder=arguments.decoder,
    )
    found = evaluation_photos(sources, arguments.side, open_recipe()[1])
    photos = islice(found, 0, None, arguments.every)
    results = run.evaluate_pictures(islice(photos, arguments.limit), plan, say)
    run.write_pictures(arguments.output / name, results, say)
    page = pictures.markdown(results.document)
    section = published_table(name, arguments.side, results.document["averages"])
    if section:
        page = f"{page}\n{section}"
        (arguments.output / name / "table.md").write_text(page)
    return page


def accuracy_curves(source: Path, arguments: argparse.Namespace, say: Say) -> str:
    """``accuracy-TASK.json``, ``.md`` and ``.svg`` of one set; returns the page."""
    cv2.setNumThreads(1)
    plan = run.AccuracyPlan(
        bundles_for(arguments.task, arguments.bundle),
        source.stem if arguments.split is None else f"{source.stem}-{arguments.split}",
        arguments.task,
        resamples=arguments.resamples,
        cache=arguments.cache or default_cache_dir(),
        decoder=arguments.decoder,
    )
    bare = not run.needs_annotations(plan.bundles, plan.task)
    found = annotated_photos(source, open_recipe()[1], arguments.split, bare=bare)
    photos = islice(found, 0, None, arguments.every)
    results = run.evaluate_accuracy(islice(photos, arguments.limit), plan, say)
    run.write_accuracy(arguments.output / plan.set_name, results, say)
    return accuracy.markdown(results.document)


def bundles_for(task: str, chosen: str | None) -> list[Bundle]:
    """The packaged bundles with a tail for the task, and those that make pictures.

    chosen: a bundle to take beside those that make pictures, instead of the packaged with a tail.
    """
    packaged = [Bundle.load(name) for name in packaged_names()]
    with_pictures = [bundle for bundle in packaged if bundle.manifest.pictures]
    if chosen is not None:
        first = Bundle.load(chosen)
        return [first, *(bundle for bundle in with_pictures if bundle.id != first.id)]
    tails = [bundle for bundle in packaged if task in bundle.manifest.tasks]
    return [*tails, *(bundle for bundle in with_pictures if bundle not in tails)]
