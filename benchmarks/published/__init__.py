"""Published figures of other codecs on sets that everybody has, beside those measured here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

RATES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
"""Bits per pixel at which codecs stand beside each other."""
METRICS = {"psnr": "PSNR, dB", "ms_ssim": "MS-SSIM"}
_MEASURED = ("featherwire", "avif", "jxl", "webp")


def published_table(set_name: str, size: int, averages: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown section; empty where nothing is published of the set at this size.

    size: long side in pixels of the photos that were measured; averages: the summary's rows, a
    codec and operating point each. Values between points are interpolated over the logarithm of
    the rate, and never beyond them.
    """
    path = Path(__file__).parent / f"{set_name}.json"
    if not path.is_file() or size < 768:
        return ""
    document = json.loads(path.read_text(encoding="utf-8"))
    lines = ["## Beside published figures", f"{document['set']}. {document['source']}.", ""]
    for metric, label in METRICS.items():
        lines += [f"| {label}, at bits per pixel | " + " | ".join(f"{r:g}" for r in RATES) + " |"]
        lines += ["| --- |" + " ---: |" * len(RATES)]
        for codec in _MEASURED:
            rows = [row for row in averages if row["codec"] == codec and metric in row]
            points = [(row["bits_per_pixel"], row[metric]) for row in rows]
            if len(points) > 1:
                lines.append(_row(f"{codec}, measured here", points, metric))
        for name, codec in document["codecs"].items():
            points = list(zip(codec["bits_per_pixel"], codec[metric], strict=True))
            lines.append(_row(name, points, metric))
        lines.append("")
    return "\n".join(lines)


def _row(name: str, points: Sequence[tuple[float, float]], metric: str) -> str:
    rates, values = np.array(sorted(points)).T
    found = np.interp(np.log(RATES), np.log(rates), values, left=np.nan, right=np.nan)
    decimals = 2 if metric == "psnr" else 4
    cells = ("-" if np.isnan(value) else f"{value:.{decimals}f}" for value in found)
    return f"| {name} | " + " | ".join(cells) + " |"
