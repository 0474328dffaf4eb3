"""One evaluation, from photos to written results: of pictures, or of a task's accuracy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from shared.bundle import Bundle, ScoreThresholds
from shared.results import DEFAULT_THRESHOLD
from training.evaluate.baselines import Baseline, machine_baselines, picture_baselines
from training.evaluate.false_positives import Least, counts
from training.evaluate.judges.kinds import Kind, kind_of
from training.evaluate.judges.metrics import GROUPS, PictureJudge, open_groups
from training.evaluate.judges.networks import Network, PackagedDetector, TaskJudge, UncutNetwork
from training.evaluate.measure import FileSizes, Measurements, PointCache, Subject, measure
from training.evaluate.photos import EvaluationError, EvaluationPhoto
from training.evaluate.report import accuracy, comparison, pictures
from training.evaluate.report.policy import Refinement, refining
from training.evaluate.report.tables import UNCOMPRESSED, Table, metric_tables, task_table
from training.evaluate.subjects import Bypass, Halves, Original, PictureStates, TailStates

Say = Callable[[str], None]
NO_PLOT = "note: no plots: matplotlib is not installed (extra `train`)"


# -- pictures --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PicturePlan:
    """What to measure of a bundle's pictures.

    groups: of metrics. baselines: None for all that this Pillow has; more may be added. limits:
    metric group -> on how many photos. fetch: get the metrics' weights first. cache: None keeps
    nothing. decoder: of the bundle's; None is the first.
    """

    bundle: Bundle
    set_name: str
    long_side: int
    groups: Sequence[str] = GROUPS
    baselines: Sequence[Baseline] | None = None
    limits: dict[str, int] = field(default_factory=dict)
    resamples: int = 500
    fetch: bool = False
    cache: Path | None = None
    decoder: str | None = None


@dataclass(frozen=True)
class PictureResults:
    """Points, tables with resamples, and the JSON-ready summary."""

    measurements: Measurements
    tables: dict[str, Table]
    document: dict[str, Any]


def evaluate_pictures(
    photos: Iterable[EvaluationPhoto], plan: PicturePlan, say: Say
) -> PictureResults:
    """Measure and compare. ``say`` is called with what is left out, and a line a photo."""
    groups, notes = open_groups(plan.groups, fetch=plan.fetch)
    for note in notes:
        say(f"note: {note}")
    halves = Halves(plan.bundle)
    others = picture_baselines() if plan.baselines is None else plan.baselines
    original = Original(judges=frozenset({"bytes", "tasks"}))
    states = PictureStates(halves, decoder=plan.decoder)
    subjects: list[Subject] = [states, Bypass(halves), original, *others]
    measurements = measure(
        photos,
        subjects,
        [FileSizes(), *map(PictureJudge, groups)],
        cache=PointCache(plan.cache),
        limits=plan.limits,
        progress=say,
    )
    tables = metric_tables(measurements, resamples=plan.resamples)
    described = {
        "bundle": plan.bundle.id,
        "decoder": plan.decoder or plan.bundle.manifest.pictures[0].name,
        "set": plan.set_name,
        "long_side": plan.long_side,
        "codecs": {subject.name: subject.identity for subject in subjects},
        "metric_versions": {group.name: group.version for group in groups},
        "resamples": plan.resamples,
        "notes": notes,
    }
    document = pictures.summary(measurements, tables, described)
    return PictureResults(measurements, tables, document)


def write_pictures(folder: Path, results: PictureResults, say: Say) -> None:
    """JSON, the page, and the plots where matplotlib is installed."""
    pictures.write(folder, results.document, results.measurements)
    try:
        from training.evaluate.report.plots import plot_all

        plot_all(results.tables, folder)
    except ImportError:
        say(NO_PLOT)


# -- accuracy of a task ----------------------------------------------------------------------------


@dataclass(frozen=True)
class AccuracyPlan:
    """What to measure of a task.

    bundles: with a tail for the task (they are measured by it), or that make pictures (by the
    whole network on their reconstructions), or both. decoder: of pictures; None is each bundle's
    first, and bundles that lack it are left out. baselines: names, None for all that this
    Pillow has. cache: None keeps nothing. network: what pictures are shown to; None is the packaged
    detector for boxes, and for other kinds the first bundle's halves, joined again.
    """

    bundles: Sequence[Bundle]
    set_name: str
    task: str = "detection"
    baselines: Sequence[str] | None = None
    resamples: int = 300
    cache: Path | None = None
    network: Network | None = None
    decoder: str | None = None


@dataclass(frozen=True)
class AccuracyResults:
    """The judged points, and the JSON-ready summary. ours: names of bundles among subjects."""

    measurements: Measurements
    table: Table
    ours: tuple[str, ...]
    document: dict[str, Any]


def evaluate_accuracy(
    photos: Iterable[EvaluationPhoto], plan: AccuracyPlan, say: Say
) -> AccuracyResults:
    """Measure, judge and compare. say: called with a line a photo.

    Raises EvaluationError ``no_tails`` when no bundle and no packaged network does the task,
    ``no_photos``, ``no_annotations``; BundleError; ModelError when the detector's weights are
    missing.
    """
    halves = [Halves(bundle) for bundle in plan.bundles]
    tailed = [one for one in halves if one.tail_output(plan.task) is not None]
    kind = _kind(tailed, plan.task)
    network = _network(tailed, kind, plan)
    painted = [one for one in halves if _paints(one.bundle, plan.decoder)]
    ours, subjects = _ours(plan.task, tailed, painted, plan.decoder)
    tailed_first = [*tailed, *painted]
    subjects = [Original(UNCOMPRESSED), *subjects]
    subjects += [
        one
        for one in machine_baselines(network)
        if plan.baselines is None or one.name in plan.baselines
    ]
    measured = measure(
        photos, subjects, [TaskJudge(kind, network)], cache=PointCache(plan.cache), progress=say
    )
    if not measured.photos:
        raise EvaluationError("no_photos", "there is no photo to evaluate on")
    judge = kind.judge(measured.photos, measured.columns[UNCOMPRESSED, 24].outputs)
    table = task_table(measured, kind, judge, resamples=plan.resamples)
    refinements = _refinements(tailed, ours) if kind.name == "boxes" else []
    document = {
        "task": plan.task,
        "set": plan.set_name,
        "photos": len(measured.photos),
        "bundles": {bundle.manifest.name: bundle.id for bundle in plan.bundles},
        "subjects": {subject.name: subject.identity for subject in subjects},
        "network": network.identity,
        "headline": kind.headline,
        "headline_label": kind.label,
        "resamples": plan.resamples,
        "notes": _notes(kind, plan),
        "uncompressed": comparison.uncompressed_row(table),
        "shares": comparison.share_rows(table, ours),
        "bd_rates": comparison.bd_rows(table, ours),
        "refining": refining(measured.columns, refinements, judge, len(measured.photos)),
        "points": comparison.point_rows(table),
        "shown": _shown(measured, dict(zip(ours, tailed_first, strict=True)), network, plan.task)
        if kind.name == "boxes"
        else [],
    }
    return AccuracyResults(measured, table, ours, document)


def write_accuracy(folder: Path, results: AccuracyResults, say: Say) -> None:
    """JSON, the page, and the plot where matplotlib is installed."""
    document = results.document
    accuracy.write(folder, document)
    title = f"{document['task']}, {document['set']}, {document['photos']} photos"
    path = folder / f"accuracy-{document['task']}.svg"
    try:
        from training.evaluate.report.plots import plot_accuracy

        plot_accuracy(results.table, results.ours, document["headline_label"], title, path)
    except ImportError:
        say(NO_PLOT)


def needs_annotations(bundles: Sequence[Bundle], task: str) -> bool:
    """Whether photos without annotations say nothing of the task: all kinds but classes'."""
    outputs = {Halves(bundle).tail_output(task) for bundle in bundles} - {None}
    return {found[0] for found in outputs if found is not None} != {"classes"}


def _kind(tailed: Sequence[Halves], task: str) -> Kind:
    found = [output for one in tailed for output in [one.tail_output(task)] if output is not None]
    if not found and task == "detection":
        return kind_of("boxes")
    if len({output for output, _ in found}) != 1:
        what = "no bundle has a tail for it" if not found else "bundles' outputs differ"
        raise EvaluationError("no_tails", f"{task} cannot be evaluated: {what}")
    return kind_of(*found[0])


def _network(tailed: Sequence[Halves], kind: Kind, plan: AccuracyPlan) -> Network:
    if plan.network is not None:
        return plan.network
    if kind.name == "boxes":
        return PackagedDetector()
    return UncutNetwork(tailed[0], plan.task)


def _paints(bundle: Bundle, decoder: str | None) -> bool:
    names = [one.name for one in bundle.manifest.pictures]
    return bool(names) and (decoder is None or decoder in names)


def _ours(
    task: str, tailed: Sequence[Halves], painted: Sequence[Halves], decoder: str | None
) -> tuple[tuple[str, ...], list[Subject]]:
    subjects: list[Subject] = []
    ours: list[str] = []
    for one in tailed:
        tail = TailStates(one, task)
        subjects += [tail, Bypass(one, task)]
        ours.append(tail.name)
    for one in painted:
        name = (
            one.bundle.manifest.name if decoder is None else f"{one.bundle.manifest.name}-{decoder}"
        )
        name = f"{name}-picture" if name in ours else name
        subjects.append(PictureStates(one, name, decoder))
        ours.append(name)
    if len({subject.name for subject in subjects}) < len(subjects):
        raise EvaluationError("same_name", "two of the bundles have the same name")
    return tuple(ours), subjects


def _shown(
    measured: Measurements, ours: Mapping[str, Halves], network: Network, task: str
) -> list[dict[str, Any]]:
    """What results show of the uncompressed photos and of every state, and what of it is false.

    ``advised`` rows are by the bundle's thresholds, the others by the task's own.
    """
    truths = [photo.truth or () for photo in measured.photos]
    rows = []
    for (subject, knob), column in measured.columns.items():
        if subject != UNCOMPRESSED and subject not in ours:
            continue
        photos = list(zip(column.outputs, truths, strict=True))
        row = {"subject": subject, "knob": knob}
        rows.append(row | {"advised": False} | counts(photos, lambda key: DEFAULT_THRESHOLD))
        if subject in ours:
            names, advised = _advised(ours[subject], network, task)
            if advised is not None:
                least = _least(advised, names, knob)
                rows.append(row | {"advised": True} | counts(photos, least))
    return rows


def _advised(
    halves: Halves, network: Network, task: str
) -> tuple[Mapping[int, str], ScoreThresholds | None]:
    """Names of classes, and the bundle's thresholds of the network that finds them."""
    advice = halves.bundle.advice
    if task in halves.bundle.manifest.tasks:
        models = [one.sha256 for one in halves.tail(task).models]
        return halves.class_names(task), advice.thresholds(task, models)
    return network.class_names, advice.thresholds(task, [network.sha256])


def _least(advised: ScoreThresholds, names: Mapping[int, str], state: int) -> Least:
    return lambda key: max(DEFAULT_THRESHOLD, advised.of(names.get(key, ""), state))


def _refinements(tailed: Sequence[Halves], ours: Sequence[str]) -> list[Refinement]:
    """From every coarser state of a tail to its finest, and from all to a picture's finest."""
    found = []
    tails = {one.bundle.manifest.name for one in tailed}
    for one in tailed:
        manifest = one.bundle.manifest
        name, states = manifest.name, range(manifest.coarsest_state + 1)
        for state in dict.fromkeys([*manifest.starts, *states]):
            if state:
                extends = manifest.finest_of(state) == 0
                found.append(Refinement((name, state), (name, 0), extends=extends))
        found += [
            Refinement((name, state), (picture, 0), extends=False)
            for picture in ours
            if picture not in tails
            for state in states
        ]
    return found


def _notes(kind: Kind, plan: AccuracyPlan) -> list[str]:
    notes = []
    if kind.name != "boxes":
        notes.append("the uncompressed network is the bundle's own halves on unquantised features")
    if plan.baselines is not None:
        names = ", ".join(plan.baselines) or "none"
        notes.append(f"of the rivals only {names} were measured")
    return notes
