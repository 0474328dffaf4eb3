"""Accuracy of a task: the results as a Markdown page, and as files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]


def write(folder: Path, document: Mapping[str, Any]) -> None:
    """``accuracy-TASK.json`` and ``accuracy-TASK.md`` in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"accuracy-{document['task']}"
    (folder / f"{stem}.json").write_text(json.dumps(document, indent=1) + "\n")
    (folder / f"{stem}.md").write_text(markdown(document))


def markdown(document: Mapping[str, Any]) -> str:
    """The page: bits at equal accuracy, rate differences, refining, every point."""
    whole = document["uncompressed"]
    parts = [
        f"# Accuracy of {document['task']}: {document['set']}",
        f"{document['photos']} photos at their own size, whole files with all headers; bits are "
        f"counted over the original's area. {_sentence(document['headline_label'])} of the "
        f"uncompressed network: {_number(whole['value'])}{_brackets(whole['interval_95'], '.3f')}. "
        "In brackets 95 % intervals from resampling the photos, the same resamples for all; none "
        "where more than one resample in twenty has no such figure.",
        *(f"Note: {note}." for note in document["notes"]),
        "## Bits at equal accuracy",
        _shares(document["shares"]),
        "## Rate difference at equal accuracy",
        "Bjontegaard's, over all of ours that the rival reaches (share in the last column); below "
        "zero ours needs fewer bits.",
        _differences(document["bd_rates"]),
        "## Operating points",
        _points(document["points"]),
    ]
    if document["shown"]:
        parts += ["## What results show", _SHOWN, _shown(document["shown"])]
    if document["refining"]["grid"]:
        parts += ["## Refining on uncertainty", _refining(document["refining"])]
    return "\n\n".join(parts) + "\n"


_SHOWN = (
    "Boxes a photo that results show, at the task's own threshold and, where the bundle has "
    "advice, at its thresholds for the state. Misplaced: no annotated object of the class overlaps "
    "by IoU 0.5; absent: nor is one anywhere in the photo. Found: the share of annotated objects."
)


def _shown(rows: Sequence[Row]) -> str:
    names = ["codec", "state", "thresholds", "boxes", "misplaced", "absent", "found"]
    lines = [_line(names), _line(["---", "---:", "---", *["---:"] * 4])]
    for row in rows:
        cells = [row["subject"], str(row["knob"]), "advised" if row["advised"] else "own"]
        numbers = [f"{row[name]:.3f}" for name in ("found", "misplaced", "absent")]
        lines.append(_line([*cells, *numbers, _share(row["recall"])]))
    return "\n".join(lines)


def _shares(rows: Sequence[Row]) -> str:
    anchors = list(dict.fromkeys(name for row in rows for name in row.get("savings", {})))
    lines = [
        _line(["of uncompressed", "codec", "bits per pixel", *(f"saved: {a}" for a in anchors)])
    ]
    lines.append(_line(["---:", "---", "---:", *("---:" for _ in anchors)]))
    for row in rows:
        bits = _number(row["bits_per_pixel"]) + _brackets(row["interval_95"], ".3f")
        cells = [_saving(row.get("savings", {}).get(name)) for name in anchors]
        lines.append(_line([f"{row['share']:.0%}", row["subject"], row["note"] or bits, *cells]))
    return "\n".join(lines)


def _saving(row: Row | None) -> str:
    if row is None or row["saving"] is None:
        return "-"
    return f"{row['saving']:.0%}" + _brackets(row["interval_95"], ".0%")


def _differences(rows: Sequence[Row]) -> str:
    lines = [
        _line(["codec", "against", "bits", "compared over"]),
        _line(["---", "---", "---:", "---:"]),
    ]
    for row in rows:
        known = row["bd_rate"] is not None
        value = f"{row['bd_rate']:+.1%}{_brackets(row['interval_95'], '+.0%')}" if known else "-"
        lines.append(_line([row["subject"], row["anchor"], value, f"{row['covered']:.0%}"]))
    return "\n".join(lines)


def _points(rows: Sequence[Row]) -> str:
    known = ("subject", "knob", "bits_per_pixel", "of_uncompressed", "of_uncompressed_interval_95")
    names = list(dict.fromkeys(name for row in rows for name in row if name not in known))
    lines = [_line(["codec", "state or quality", "bits per pixel", "of uncompressed", *names])]
    lines.append(_line(["---", *("---:" for _ in range(3 + len(names)))]))
    for row in rows:
        share = row.get("of_uncompressed")
        text = _share(share)
        text += _brackets(row.get("of_uncompressed_interval_95"), ".0%")
        cells = [row["subject"], str(row["knob"]), _number(row.get("bits_per_pixel")), text]
        lines.append(_line([*cells, *(_number(row.get(name)) for name in names)]))
    return "\n".join(lines)


def _refining(document: Mapping[str, Any]) -> str:
    kept = f"{document['kept']:.0%}"
    saving = [row for row in document["grid"] if row["bits_saved"] > 0]
    best, halves = document["best_of_grid"], [h for h in document["halves"] if h is not None]
    parts = [
        "A photo with a detection scored within the band is refined. The grid was measured on the "
        "photos that it is reported on; the halves were not: every other photo chose what keeps "
        f"{kept} for the fewest bits, and the rest report it. {len(saving)} of "
        f"{len(document['grid'])} pairs of points and bands send less than always the finer:",
        _outcomes(saving),
    ]
    parts += ["The cheapest of the grid that does:", _outcomes([best])] if best else []
    parts += ["Chosen on one half, reported on the other:", _outcomes(halves)] if halves else []
    return "\n\n".join(parts)


def _outcomes(rows: Sequence[Row]) -> str:
    names = ["coarse", "fine", "band", "refined", "bits per pixel", "of the finer's accuracy"]
    names += ["without a policy at these bits", "of its bits saved"]
    lines = [_line(names), _line(["---"] * 3 + ["---:"] * 5)]
    return "\n".join([*lines, *map(_outcome, rows)])


def _outcome(row: Row) -> str:
    low, high = row["band"]
    return _line(
        [
            "{} {}".format(*row["coarse"]),
            "{} {}".format(*row["fine"]),
            f"{low:g} to {high:g}",
            f"{row['refined']:.0%}",
            _number(row["bits_per_pixel"]),
            _share(row["of_finest"]),
            _share(row["plain_of_finest"]),
            f"{row['bits_saved']:.0%}",
        ]
    )


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"


def _brackets(pair: Sequence[float] | None, form: str) -> str:
    return "" if pair is None else f" [{pair[0]:{form}}, {pair[1]:{form}}]"


def _sentence(text: str) -> str:
    return text[0].upper() + text[1:]
