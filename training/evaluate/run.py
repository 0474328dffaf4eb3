"""One evaluation from photos to written results: what the command and the benchmark share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.bundle import Bundle
from training.evaluate.cache import PointCache
from training.evaluate.measure import Measurements, measure
from training.evaluate.metrics import GROUPS, open_groups
from training.evaluate.photos import EvaluationPhoto
from training.evaluate.report import summary, write
from training.evaluate.rivals import Rival, rivals
from training.evaluate.tables import MetricTable, metric_tables
from training.evaluate.under_test import BundleCoder, Bypass, Codec, Original, States

Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What to measure.

    rivals: None for all that this Pillow has; more may be added. limits: metric group -> on how
    many photos. fetch: get the metrics' weights first. cache: None keeps nothing.
    """

    bundle: Bundle
    set_name: str
    long_side: int
    groups: Sequence[str] = GROUPS
    rivals: Sequence[Rival] | None = None
    limits: Mapping[str, int] = field(default_factory=dict)
    resamples: int = 500
    fetch: bool = False
    cache: Path | None = None


@dataclass(frozen=True)
class Results:
    """Points, tables with resamples, and the JSON-ready summary."""

    measurements: Measurements
    tables: dict[str, MetricTable]
    document: dict[str, Any]


def evaluate(photos: Iterable[EvaluationPhoto], plan: Plan, say: Say) -> Results:
    """Measure and compare. ``say`` is told what is left out, and a line a photo."""
    groups, notes = open_groups(plan.groups, fetch=plan.fetch)
    for note in notes:
        say(f"note: {note}")
    coder = BundleCoder(plan.bundle)
    others = rivals() if plan.rivals is None else plan.rivals
    codecs: list[Codec] = [States(coder), Bypass(coder), Original(), *others]
    measurements = measure(
        photos,
        codecs,
        groups,
        cache=PointCache(plan.cache),
        limits=plan.limits,
        progress=say,
    )
    tables = metric_tables(measurements, resamples=plan.resamples)
    described = {
        "bundle": plan.bundle.id,
        "set": plan.set_name,
        "long_side": plan.long_side,
        "codecs": {codec.name: codec.identity for codec in codecs},
        "metric_versions": {group.name: group.version for group in groups},
        "resamples": plan.resamples,
        "notes": notes,
    }
    return Results(measurements, tables, summary(measurements, tables, described))


def write_results(folder: Path, results: Results, say: Say) -> None:
    """JSON, the page, and the plots where matplotlib is installed."""
    write(folder, results.document, results.measurements)
    try:
        from training.evaluate.plots import plot_all

        plot_all(results.tables, folder)
    except ImportError:
        say("note: no plots: matplotlib is not installed (extra `train`)")
