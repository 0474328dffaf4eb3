"""Cards through a bundle's states and the rivals: `make bench BENCH_ARGS=--cards`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cards.colours import KINDS, cards, difference
from benchmarks.cards.text import SIDE, SIZES, WEIGHTS, Reader, page
from shared.bundle import Bundle
from shared.errors import ModelError
from shared.weights import ModelStore
from training.evaluate.baselines import picture_baselines
from training.evaluate.measure import Subject
from training.evaluate.subjects import Halves, PictureStates

Row = dict[str, Any]


def subjects(bundle: Bundle) -> list[Subject]:
    """The bundle's states by each of its decoders, AVIF at full size and WebP."""
    rivals = [one for one in picture_baselines() if one.name in ("avif", "webp")]
    halves = Halves(bundle)
    names = [one.name for one in bundle.manifest.pictures]
    return [*(PictureStates(halves, name, name) for name in names), *rivals]


def colour_rows(measured: Iterable[Subject]) -> list[Row]:
    """For every operating point: mean bytes of a card; mean CIEDE2000 by kind, and the worst."""
    shown = list(cards())
    rows = []
    for subject in measured:
        found: dict[int, list[tuple[str, int, float]]] = {knob: [] for knob in subject.knobs}
        for kind, _, pixels in shown:
            for coded in subject.points(pixels, subject.knobs):
                assert coded.picture is not None
                error = difference(pixels, coded.picture)
                found[coded.knob].append((kind, coded.bytes, error))
        for knob, values in found.items():
            row: Row = {"codec": subject.name, "knob": knob}
            row["bytes"] = round(float(np.mean([size for _, size, _ in values])), 1)
            for kind in KINDS:
                errors = [error for of, _, error in values if of == kind]
                row[kind] = round(float(np.mean(errors)), 3)
            row["worst"] = round(max(error for _, _, error in values), 3)
            rows.append(row)
    return rows


def text_rows(measured: Iterable[Subject], reader: Reader) -> list[Row]:
    """For every operating point: bits per pixel, and the character error rate by size of type."""
    pixels, lines = page()
    rows: list[Row] = [{"codec": "original", "knob": 24, "bits_per_pixel": 24.0}]
    rows[0] |= {str(size): error for size, error in reader.errors(pixels, lines).items()}
    for subject in measured:
        for coded in subject.points(pixels, subject.knobs):
            assert coded.picture is not None
            row: Row = {"codec": subject.name, "knob": coded.knob}
            row["bits_per_pixel"] = round(8 * coded.bytes / SIDE**2, 4)
            errors = reader.errors(coded.picture, lines)
            rows.append(row | {str(size): round(error, 3) for size, error in errors.items()})
    return rows


def measure_cards(bundle: Bundle, folder: Path) -> str:
    """``cards.json`` and ``cards.md`` in ``folder``; returns the page."""
    measured = subjects(bundle)
    document: Row = {"bundle": bundle.id, "colours": colour_rows(measured), "text": []}
    parts = [
        f"Bundle `{bundle.id[:16]}`.",
        "## Colours",
        "Mean CIEDE2000 of cards of 256x256 pixels (1 is just seen, 2 to 3 at a glance).",
        _table(document["colours"], ["bytes", *KINDS, "worst"]),
        "## Text",
    ]
    try:
        store = ModelStore()
        store.fetch(WEIGHTS)
        document["text"] = text_rows(measured, Reader(store))
        parts += [
            "Character error rate of a page of 512x512 pixels by the height of its type in pixels "
            "(PP-OCRv4's recogniser; capitals and spaces ignored).",
            _table(document["text"], ["bits_per_pixel", *map(str, SIZES)]),
        ]
    except ModelError as error:
        parts.append(f"Not measured: {error.message}.")
    text = "\n\n".join(parts) + "\n"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cards.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / "cards.md").write_text(text)
    return text


def _table(rows: Sequence[Row], columns: Sequence[str]) -> str:
    lines = ["| codec | state or quality | " + " | ".join(columns).replace("_", " ") + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(columns))
    for row in rows:
        cells = " | ".join(f"{row[column]:g}" for column in columns)
        lines.append(f"| {row['codec']} | {row['knob']} | {cells} |")
    return "\n".join(lines)
