"""Pictures: results as JSON, as a Markdown page, and as a table of single points."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from training.evaluate.judges.metrics import METRICS
from training.evaluate.measure import Measurements
from training.evaluate.report.comparison import bd_rates, equal_rate_rows, rounded
from training.evaluate.report.tables import ORIGINAL, PRECISIONS, Table


def averages(measurements: Measurements, tables: Mapping[str, Table]) -> list[dict[str, Any]]:
    """A row for every codec and operating point: means over the photos that have each metric."""
    rows = []
    for key, column in measurements.columns.items():
        row: dict[str, Any] = {
            "codec": key[0],
            "knob": key[1],
            "photos": len(column.bytes),
            "bytes": round(float(np.mean(column.bytes)), 1),
            "bits_per_pixel": round(float(np.mean(column.bits_per_pixel)), 5),
        }
        for name, table in tables.items():
            if key in table.keys:
                row[name] = rounded(table.values[0, table.keys.index(key)], 5)
            elif key[0] == ORIGINAL and table.original is not None:
                row[name] = rounded(table.original[0], 5)
        rows.append(row)
    return rows


def summary(
    measurements: Measurements, tables: Mapping[str, Table], described: Mapping[str, Any]
) -> dict[str, Any]:
    """Everything but single points, JSON-ready. described: bundle, codecs, notes ..."""
    compared = [one for table in tables.values() for one in bd_rates(table)]
    return {
        **described,
        "photos": [photo.name for photo in measurements.photos],
        "photos_by_metric": {name: table.photos for name, table in tables.items()},
        "bd_rates": [one.to_dict() for one in compared],
        "equal_rates": [row for table in tables.values() for row in equal_rate_rows(table)],
        "averages": averages(measurements, tables),
    }


def point_columns(measurements: Measurements) -> dict[str, Any]:
    """Single points, a list of photos and beside it a list of values for every metric."""
    codecs: dict[str, dict[str, dict[str, list[float | None]]]] = {}
    for (codec, knob), column in measurements.columns.items():
        names = dict.fromkeys(name for figures in column.figures for name in figures)
        columns = {"bytes": [_short(size) for size in column.bytes]}
        columns |= {
            name: [_short(figures.get(name)) for figures in column.figures]
            for name in names
            if name not in PRECISIONS.values()
        }
        codecs.setdefault(codec, {})[str(knob)] = columns
    photos = [photo.name for photo in measurements.photos]
    sizes = [list(size) for size in measurements.sizes]
    return {"photos": photos, "width_height": sizes, "codecs": codecs}


def markdown(document: Mapping[str, Any]) -> str:
    """The summary as a page."""
    photos = document["photos"]
    parts = [
        f"Bundle `{document['bundle'][:16]}`, {len(photos)} photos "
        f"({document['set']}), long side at most {document['long_side']} pixels, whole files.",
        *(f"Note: {note}." for note in document["notes"]),
        "## Rate at equal value",
        "Bjontegaard's rate difference of every state of ours between 0.02 and 0.5 bits per "
        "pixel; below zero we need fewer bits. In brackets the 95 % interval from resampling the "
        "photos; then which share of our range of values the rival reaches at all.",
        _bd_table(document),
        "## Value at equal rate",
        _equal_rate_table(document),
        "## Operating points",
        "Means over the photos.",
        averages_table(document["averages"]),
    ]
    return "\n\n".join(parts)


def averages_table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The averages as a Markdown table."""
    present = [name for name in METRICS if any(name in row for row in rows)]
    keys = ["bits_per_pixel", "bytes", *present]
    lines = ["| codec | state or quality | " + " | ".join(keys) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(keys))
    for row in rows:
        cells = " | ".join(_cell(row.get(key)) for key in keys)
        lines.append(f"| {row['codec']} | {row['knob']} | {cells} |")
    return "\n".join(lines) + "\n"


def write(folder: Path, document: Mapping[str, Any], measurements: Measurements) -> None:
    """``curves.json``, ``points.json`` and ``table.md`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "curves.json").write_text(json.dumps(document, indent=1) + "\n")
    points = json.dumps(point_columns(measurements), separators=(",", ":"))
    (folder / "points.json").write_text(points + "\n")
    (folder / "table.md").write_text(markdown(document))


def _bd_table(document: Mapping[str, Any]) -> str:
    anchors = list(dict.fromkeys(row["anchor"] for row in document["bd_rates"]))
    if not anchors:
        return "No rival was measured."
    lines = ["| metric | photos | " + " | ".join(anchors) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(anchors))
    for name, metric in METRICS.items():
        rows = {row["anchor"]: row for row in document["bd_rates"] if row["metric"] == name}
        if rows:
            cells = " | ".join(_bd_cell(rows.get(anchor)) for anchor in anchors)
            photos = document["photos_by_metric"][name]
            lines.append(f"| {metric.label} | {photos} | {cells} |")
    return "\n".join(lines)


def _bd_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "-"
    if row["bd_rate"] is None:
        return f"no common values: {row['note']}" if row["note"] else "no common values"
    text = f"{row['bd_rate']:+.1%}"
    if row["interval_95"] is not None:
        low, high = row["interval_95"]
        text += f" [{low:+.0%}, {high:+.0%}]"
    return text if row["covered"] > 0.95 else f"{text}, over {row['covered']:.0%}"


def _equal_rate_table(document: Mapping[str, Any]) -> str:
    codecs = list(dict.fromkeys(row["codec"] for row in document["equal_rates"]))
    lines = ["| metric | bits per pixel | " + " | ".join(codecs) + " |"]
    lines.append("| --- | ---: |" + " ---: |" * len(codecs))
    places = dict.fromkeys(
        (row["metric"], row["bits_per_pixel"]) for row in document["equal_rates"]
    )
    for name, rate in places:
        rows = {
            row["codec"]: row
            for row in document["equal_rates"]
            if (row["metric"], row["bits_per_pixel"]) == (name, rate)
        }
        cells = " | ".join(_equal_cell(rows.get(codec), name) for codec in codecs)
        lines.append(f"| {METRICS[name].label} | {rate:g} | {cells} |")
    return "\n".join(lines)


def _equal_cell(row: Mapping[str, Any] | None, metric: str) -> str:
    if row is None or row["value"] is None:
        return "-"
    text = f"{row['value']:.{METRICS[metric].decimals}f}"
    if row.get("of_uncompressed") is not None:
        text += f" ({row['of_uncompressed']:.0%} of uncompressed)"
    return text


def _cell(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if value < 1000 else f"{value:.0f}"


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")
