"""What a setting of the fit step is worth: short runs that differ in nothing else, compared.

Every variant goes through all steps (fit, palette, tables, export) and is measured as a bundle:
whole files on photos never trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codec.base import Trainer, TrainingStep, trainer
from shared.bundle import Bundle
from training.evaluate.judges.metrics import METRICS, PictureJudge, open_groups
from training.evaluate.measure import FileSizes, PointCache, measure
from training.evaluate.photos import EvaluationPhoto
from training.evaluate.report.comparison import bd_rates
from training.evaluate.report.pictures import averages
from training.evaluate.report.tables import metric_tables
from training.evaluate.subjects import Halves, PictureStates

Say = Callable[[str], None]
Rows = Sequence[Mapping[str, Any]]


def steps_from_fit(trainer: Trainer[Any]) -> list[TrainingStep[Any]]:
    """The fit step and all between it and the last one, which writes the bundle, in their order."""
    found: list[TrainingStep[Any]] = []
    for step in trainer.steps:
        if step.name == "fit" or any(one.name in step.reads for one in found):
            found.append(step)
    needed = {trainer.steps[-1].name}
    for step in reversed(found):
        if step.name in needed:
            needed.update(step.reads)
    return [step for step in found if step.name in needed]


def compare(
    bundles: Mapping[str, Bundle],
    photos: Sequence[EvaluationPhoto],
    cache: Path,
    groups: Sequence[str],
    say: Say,
    *,
    resamples: int = 500,
) -> dict[str, Any]:
    """All variants against the first: averages per state, rate differences, palettes' meaning.

    cache: folder of the photos step, whose texture labels (if the texture step has run) tell what
    a palette's nodes mean. Returns JSON-ready values.
    """
    opened, notes = open_groups(groups)
    for note in notes:
        say(f"note: {note}")
    measured = measure(
        photos,
        [PictureStates(Halves(bundle), name) for name, bundle in bundles.items()],
        [FileSizes(), *map(PictureJudge, opened)],
        cache=PointCache(None),
        progress=say,
    )
    tables = metric_tables(measured, resamples=resamples)
    first, *others = bundles
    return {
        "variants": {name: bundle.id for name, bundle in bundles.items()},
        "photos": len(photos),
        "averages": averages(measured, tables),
        "against_first": {
            name: [
                found.to_dict()
                for table in tables.values()
                # Wherever both curves are: an ablation's short runs do not reach every rate.
                for found in bd_rates(table, {first: (first,)}, rates=(1e-3, 1.0), ours=name)
            ]
            for name in others
        },
        "meaning": _meanings(bundles, photos, cache, say),
    }


def markdown(document: Mapping[str, Any]) -> str:
    """The comparison as Markdown: states, rate differences, and what nodes tell of textures."""
    return "\n".join(
        [*_state_lines(document["averages"]), *_rate_lines(document), *_meaning_lines(document)]
    )


def write(folder: Path, document: Mapping[str, Any]) -> None:
    """``ablation.json`` and ``ablation.md``."""
    (folder / "ablation.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "ablation.md").write_text(markdown(document))


def _meanings(
    bundles: Mapping[str, Bundle], photos: Sequence[EvaluationPhoto], cache: Path, say: Say
) -> dict[str, Any]:
    """What palettes tell of textures, of codecs that can say."""
    found = {}
    for name, bundle in bundles.items():
        check = trainer(bundle.manifest.codec).checks.get("meaning")
        if check is not None:
            found[name] = check(bundle, (photo.pixels for photo in photos), cache=cache, seed=0)
    if not any(found.values()):
        say("note: the palettes' meaning is not measured: the texture step has not run")
        return {}
    return found


def _state_lines(rows: Rows) -> list[str]:
    metrics = [m for m in METRICS.values() if any(m.name in row for row in rows)]
    lines = [
        "| variant | state | bits per pixel | " + " | ".join(m.label for m in metrics) + " |",
        "| --- | ---: | ---: |" + " ---: |" * len(metrics),
    ]
    for row in rows:
        cells = [
            f"{row[m.name]:.{m.decimals}f}" if row.get(m.name) is not None else "-"
            for m in metrics
        ]  # fmt: skip
        start = f"| {row['codec']} | {row['knob']} | {row['bits_per_pixel']:.4f} | "
        lines.append(start + " | ".join(cells) + " |")
    return lines


def _rate_lines(document: Mapping[str, Any]) -> list[str]:
    first = next(iter(document["variants"]))
    lines = [
        "",
        f"| variant | metric | rate at equal value, against {first} | 95 % |",
        "| --- | --- | ---: | --- |",
    ]
    for name, rows in document["against_first"].items():
        for row in rows:
            change, inside = row["bd_rate"], row["interval_95"]
            rate = "-" if change is None else f"{100 * change:+.1f} %"
            between = "-" if inside is None else f"{100 * inside[0]:+.1f} to {100 * inside[1]:+.1f}"
            lines.append(f"| {name} | {row['metric']} | {rate} | {between} |")
    return lines


def _meaning_lines(document: Mapping[str, Any]) -> list[str]:
    if not document["meaning"]:
        return []
    deepest = max(len(v) for planes in document["meaning"].values() for v in planes.values())
    lines = [
        "",
        "Normalised mutual information of palette nodes and textures, by depth:",
        "",
        "| variant | plane |" + "".join(f" {depth + 1} |" for depth in range(deepest)),
        "| --- | --- |" + " ---: |" * deepest,
    ]
    for name, planes in document["meaning"].items():
        for plane, values in planes.items():
            cells = [f" {value:.3f} |" for value in values] + [" |"] * (deepest - len(values))
            lines.append(f"| {name} | {plane} |" + "".join(cells))
    return [*lines, ""]
