"""One evaluation of a task's accuracy, from an annotated set to written results."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codec.settings import FeatureSettings
from shared.bundle import Bundle
from training.evaluate.accuracy import page, summary
from training.evaluate.accuracy.base import Kind, Network, Subject
from training.evaluate.accuracy.curves import UNCOMPRESSED, AccuracyTable, accuracy_table
from training.evaluate.accuracy.feature_coder import FeatureCoder
from training.evaluate.accuracy.kinds import kind_of
from training.evaluate.accuracy.networks import PackagedDetector, UncutNetwork
from training.evaluate.accuracy.points import Points, measure_points
from training.evaluate.accuracy.policy import Refinement, refining
from training.evaluate.accuracy.rivals import machine_rivals
from training.evaluate.accuracy.subjects import Pictures, Tail, Uncompressed, Unquantised
from training.evaluate.cache import PointCache
from training.evaluate.photos import EvaluationError, EvaluationPhoto
from training.evaluate.under_test import BundleCoder, States

Say = Callable[[str], None]


@dataclass(frozen=True)
class AccuracyPlan:
    """What to measure.

    bundles: with a tail for the task (they are measured by it), or that make pictures (by the
    whole network on their reconstructions), or both. rivals: names, None for all that this Pillow
    has. cache: None keeps nothing. network: what pictures are shown to; None is the packaged
    detector for boxes, and for other kinds the first bundle's halves, joined again.
    """

    bundles: Sequence[Bundle]
    set_name: str
    task: str = "detection"
    rivals: Sequence[str] | None = None
    resamples: int = 300
    cache: Path | None = None
    network: Network | None = None


@dataclass(frozen=True)
class AccuracyResults:
    """The judged points, and the JSON-ready summary. ours: names of bundles among subjects."""

    points: Points
    table: AccuracyTable
    ours: tuple[str, ...]
    label: str
    document: dict[str, Any]


def evaluate_accuracy(
    photos: Iterable[EvaluationPhoto], plan: AccuracyPlan, say: Say
) -> AccuracyResults:
    """Measure, judge and compare. say: told a line a photo.

    Raises EvaluationError ``no_tails`` when no bundle and no packaged network does the task,
    ``no_photos``, ``no_annotations``; BundleError; ModelError when the detector's weights are
    missing.
    """
    coders = [FeatureCoder(bundle) for bundle in plan.bundles if _tail_of(bundle, plan.task)]
    kind = _kind(coders, plan.task)
    network = _network(coders, kind, plan)
    ours, subjects = _ours(plan, coders, kind, network)
    rivals = [
        rival
        for rival in machine_rivals(network)
        if plan.rivals is None or rival.name in plan.rivals
    ]
    everything: list[Subject] = [Uncompressed(network), *subjects, *rivals]
    points = measure_points(photos, everything, kind, cache=PointCache(plan.cache), progress=say)
    if not points.photos:
        raise EvaluationError("no_photos", "there is no photo to evaluate on")
    reference = points.columns[UNCOMPRESSED, 24].outputs
    judge = kind.judge(points.photos, reference)
    table = accuracy_table(points, judge, resamples=plan.resamples)
    document = {
        "task": plan.task,
        "set": plan.set_name,
        "photos": len(points.photos),
        "bundles": {bundle.manifest.name: bundle.id for bundle in plan.bundles},
        "subjects": {subject.name: subject.identity for subject in everything},
        "network": network.identity,
        "headline": kind.headline,
        "headline_label": kind.label,
        "resamples": plan.resamples,
        "notes": _notes(kind, plan),
        "uncompressed": summary.uncompressed_row(table),
        "shares": summary.share_rows(table, ours),
        "bd_rates": summary.bd_rows(table, ours),
        "refining": refining(
            points.columns,
            _refinements(plan, coders, ours) if kind.name == "boxes" else [],
            judge,
            len(points.photos),
        ),
        "points": summary.point_rows(table),
    }
    return AccuracyResults(points, table, ours, kind.label, document)


def write_accuracy(folder: Path, results: AccuracyResults, say: Say) -> None:
    """JSON, the page, and the plot where matplotlib is installed."""
    document = results.document
    page.write(folder, document)
    try:
        from training.evaluate.accuracy.plot import plot
    except ImportError:
        say("note: no plot: matplotlib is not installed (extra `train`)")
        return
    title = f"{document['task']}, {document['set']}, {document['photos']} photos"
    path = folder / f"accuracy-{document['task']}.svg"
    plot(results.table, results.ours, results.label, title, path)


def needs_annotations(bundles: Sequence[Bundle], task: str) -> bool:
    """Whether photos without annotations say nothing of the task: all kinds but classes'."""
    outputs = {
        t.output
        for bundle in bundles
        for t in FeatureSettings.of(bundle).tails or ()
        if t.task == task
    }
    return outputs != {"classes"}


def _tail_of(bundle: Bundle, task: str) -> bool:
    return task in bundle.manifest.tasks


def _kind(coders: Sequence[FeatureCoder], task: str) -> Kind:
    outputs = {coder.spec(task).output for coder in coders}
    if not outputs and task == "detection":
        outputs = {"boxes"}
    if len(outputs) != 1:
        what = "no bundle has a tail for it" if not outputs else "bundles' outputs differ"
        raise EvaluationError("no_tails", f"{task} cannot be evaluated: {what}")
    return kind_of(outputs.pop())


def _network(coders: Sequence[FeatureCoder], kind: Kind, plan: AccuracyPlan) -> Network:
    if plan.network is not None:
        return plan.network
    if kind.name == "boxes":
        return PackagedDetector()
    return UncutNetwork(coders[0], plan.task, kind)


def _ours(
    plan: AccuracyPlan, coders: Sequence[FeatureCoder], kind: Kind, network: Network
) -> tuple[tuple[str, ...], list[Subject]]:
    subjects: list[Subject] = []
    ours = []
    for coder in coders:
        tail = Tail(coder, plan.task, kind)
        subjects += [tail, Unquantised(coder, UncutNetwork(coder, plan.task, kind))]
        ours.append(tail.name)
    for bundle in plan.bundles:
        if bundle.manifest.pictures:
            name = bundle.manifest.name
            name = f"{name}-picture" if name in ours else name
            subjects.append(Pictures(States(BundleCoder(bundle)), network, name))
            ours.append(name)
    if len({subject.name for subject in subjects}) < len(subjects):
        raise EvaluationError("same_name", "two of the bundles have the same name")
    return tuple(ours), subjects


def _refinements(
    plan: AccuracyPlan, coders: Sequence[FeatureCoder], ours: Sequence[str]
) -> list[Refinement]:
    """From every coarser state of a tail to its finest, and from all to a picture's finest."""
    found = []
    for coder in coders:
        manifest = coder.bundle.manifest
        finest = [row.state for row in manifest.states if manifest.finest_of(row.state) == 0]
        coarse = dict.fromkeys([*manifest.starts, *range(1, manifest.coarsest_state + 1)])
        for state in coarse:
            if state == 0:
                continue
            begin = (manifest.name, state)
            found.append(Refinement(begin, (manifest.name, 0), extends=state in finest))
        pictures = [name for name in ours if name not in {c.bundle.manifest.name for c in coders}]
        found += [
            Refinement((manifest.name, state), (name, 0), extends=False)
            for name in pictures
            for state in range(manifest.coarsest_state + 1)
        ]
    return found


def _notes(kind: Kind, plan: AccuracyPlan) -> list[str]:
    notes = []
    if kind.name != "boxes":
        notes.append("the uncompressed network is the bundle's own halves on unquantised features")
    if plan.rivals is not None:
        notes.append(f"of the rivals only {', '.join(plan.rivals) or 'none'} were measured")
    return notes
