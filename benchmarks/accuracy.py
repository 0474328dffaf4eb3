"""Accuracy over rate on annotated sets, of every packaged bundle that fits the task."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import cv2

from codec.markov_palette.train.recipe import load_recipe
from shared.bundle import Bundle, packaged_names
from training.evaluate.accuracy.page import markdown
from training.evaluate.accuracy.run import (
    AccuracyPlan,
    evaluate_accuracy,
    needs_annotations,
    write_accuracy,
)
from training.evaluate.accuracy.sets import annotated_photos
from training.evaluate.cache import default_cache_dir


def accuracy_curves(arguments: argparse.Namespace, say: Callable[[str], None]) -> None:
    """``accuracy-TASK.json``, ``.md`` and ``.svg`` of every set, into a folder of its name."""
    cv2.setNumThreads(1)
    for source in arguments.accuracy:
        plan = AccuracyPlan(
            bundles_for(arguments.task, arguments.bundle),
            set_name(source, arguments.split),
            arguments.task,
            resamples=arguments.resamples,
            cache=arguments.cache or default_cache_dir(),
        )
        bare = not needs_annotations(plan.bundles, plan.task)
        found = annotated_photos(source, load_recipe(None), arguments.split, bare=bare)
        photos = islice(found, 0, None, arguments.every)
        results = evaluate_accuracy(islice(photos, arguments.limit), plan, say)
        write_accuracy(arguments.output / plan.set_name, results, say)
        print(markdown(results.document))


def bundles_for(task: str, chosen: str | None) -> list[Bundle]:
    """The packaged bundles with a tail for the task, and those that make pictures.

    chosen: a bundle to take beside those that make pictures, instead of the packaged with a tail.
    """
    packaged = [Bundle.load(name) for name in packaged_names()]
    pictures = [bundle for bundle in packaged if bundle.manifest.pictures]
    if chosen is not None:
        first = Bundle.load(chosen)
        return [first, *(bundle for bundle in pictures if bundle.id != first.id)]
    tails = [bundle for bundle in packaged if task in bundle.manifest.tasks]
    return [*tails, *(bundle for bundle in pictures if bundle not in tails)]


def set_name(source: Path, split: str | None) -> str:
    """The folder of a set's results."""
    return source.stem if split is None else f"{source.stem}-{split}"
