"""What a setting of the fit step is worth: short runs that differ in nothing else, compared.

Every variant goes through all steps (fit, palette, tables, export) and is measured as a bundle:
whole files on photos never trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from codec.kit.backbone import CLASSIFIER
from codec.kit.textures import LABELS_FILE, PatchDescriptors, TextureModel
from codec.markov_palette.train.bundle import RunFiles, write_bundle, write_palette, write_tables
from codec.markov_palette.train.recipe import Recipe
from shared.bundle import Bundle
from shared.weights import ModelStore
from training.evaluate.cache import PointCache
from training.evaluate.comparison import OURS, Comparison, bd_rates
from training.evaluate.measure import measure
from training.evaluate.metrics import METRICS, open_groups
from training.evaluate.photos import EvaluationPhoto
from training.evaluate.report import averages
from training.evaluate.tables import MetricTable, metric_tables
from training.evaluate.under_test import BundleCoder, Codec, States
from training.meaning import palette_meaning

Say = Callable[[str], None]
Rows = Sequence[Mapping[str, Any]]


def finish(recipe: Recipe, files: RunFiles, device: str, say: Say) -> Bundle:
    """The steps after fit, for one variant: its bundle, in ``bundle`` of its folder."""
    write_palette(recipe, files)
    write_tables(recipe, files, lambda step, total: None, device=device)
    bundle = write_bundle(recipe, files, files.folder / "bundle", None)
    say(f"{files.folder.name}: bundle {bundle.id[:16]}")
    return bundle


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

    cache: the photo cache, whose texture labels (if the texture step has run) tell what a
    palette's nodes mean. Returns JSON-ready values.
    """
    opened, notes = open_groups(groups)
    for note in notes:
        say(f"note: {note}")
    coders = {name: BundleCoder(bundle) for name, bundle in bundles.items()}
    codecs: list[Codec] = [_named(name, coder) for name, coder in coders.items()]
    measured = measure(photos, codecs, opened, cache=PointCache(None), progress=say)
    tables = metric_tables(measured, resamples=resamples)
    names = list(bundles)
    return {
        "variants": {name: bundle.id for name, bundle in bundles.items()},
        "photos": len(photos),
        "averages": averages(measured, tables),
        "against_first": {
            name: [
                found.to_dict()
                for table in tables.values()
                for found in _against(table, names[0], name)
            ]
            for name in names[1:]
        },
        "meaning": _meanings(coders, photos, cache, say),
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


def _named(name: str, coder: BundleCoder) -> States:
    codec = States(coder)
    codec.name = name
    return codec


def _against(table: MetricTable, first: str, name: str) -> list[Comparison]:
    """The table with ``name`` in the place of ours, compared with ``first``."""
    ours = tuple((OURS if codec == name else codec, knob) for codec, knob in table.keys)
    renamed = MetricTable(
        table.metric, ours, table.rates, table.values, table.photos, table.original
    )
    # Wherever both curves are: an ablation's short runs do not reach every rate.
    return bd_rates(renamed, {first: (first,)}, rates=(1e-3, 1.0))


def _meanings(
    coders: Mapping[str, BundleCoder], photos: Sequence[EvaluationPhoto], cache: Path, say: Say
) -> dict[str, Any]:
    if not (cache / LABELS_FILE).exists():
        say("note: the palettes' meaning is not measured: the texture step has not run")
        return {}
    with np.load(cache / LABELS_FILE, allow_pickle=False) as file:
        model = TextureModel.from_arrays(file)
    describe = PatchDescriptors(load_file(ModelStore().path(CLASSIFIER.model)), model.grid)
    pixels = [photo.pixels for photo in photos]
    return {name: palette_meaning(coder, pixels, model, describe) for name, coder in coders.items()}


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
