"""Accuracy over rate, all subjects in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.evaluate.accuracy.curves import AccuracyTable
from training.evaluate.bootstrap import LEVEL

_COLOURS = {"avif": "#1565c0", "jxl": "#2e7d32", "webp": "#ef6c00", "jpeg": "#616161"}
_OURS = ("#c2185b", "#7b1fa2", "#00838f", "#5d4037")
_LINES = {"": "-", "half": "--", "quarter": ":", "input": "-."}
_RATES = (0.005, 2.0)


def plot(table: AccuracyTable, ours: Sequence[str], label: str, title: str, path: Path) -> None:
    """Write an SVG, the same bytes for the same figures; bands are 95 % intervals of ours.

    Raises ImportError without matplotlib.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    with mpl.rc_context({"svg.hashsalt": "featherwire", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(7, 4.6), layout="constrained")
        for subject in table.subjects:
            columns = table.columns(subject)
            mine = subject in ours
            kind, _, size = subject.partition("-")
            colour = _COLOURS.get(kind, "#000000")
            if mine:
                colour = _OURS[list(ours).index(subject) % len(_OURS)]
            shares = np.stack([table.relative(column) for column in columns], 1)
            rates = table.rates[0, columns]
            if len(columns) == 1:
                text = f"{subject} ({rates[0]:.1f} bits per pixel)"
                axes.axhline(shares[0, 0], color=colour, linestyle=":", linewidth=1, label=text)
                continue
            axes.plot(
                rates, shares[0], "-" if mine else _LINES.get(size, "-"), color=colour,
                marker="o" if mine else "", markersize=4, linewidth=2.2 if mine else 1.1,
                label=subject,
            )  # fmt: skip
            if mine and np.isfinite(shares[1:]).any(axis=0).all():
                ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
                low, high = np.nanquantile(shares[1:], ends, axis=0)
                axes.fill_between(rates, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.axhline(1.0, color="#9e9e9e", linewidth=0.8)
        axes.set_xscale("log")
        axes.set_xlim(*_RATES)
        ticks = [0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_ylim(0, 1.1)
        axes.set_xlabel("bits per pixel of the original, whole files")
        axes.set_ylabel(f"{label}, of the uncompressed network's", fontsize=8)
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=6, ncols=2)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)
