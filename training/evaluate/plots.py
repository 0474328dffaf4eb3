"""Rate against every metric, all codecs in one picture a metric."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.evaluate.bootstrap import LEVEL
from training.evaluate.comparison import OURS
from training.evaluate.tables import MetricTable

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLES = {
    OURS: ("#c2185b", "-", "o"),
    "bypass": ("#7b1fa2", "--", ""),
    "avif": ("#1565c0", "-", "s"),
    "avif-half": ("#1565c0", "--", "s"),
    "avif-quarter": ("#1565c0", ":", "s"),
    "jxl": ("#2e7d32", "-", "^"),
    "jxl-half": ("#2e7d32", "--", "^"),
    "webp": ("#ef6c00", "-", "v"),
    "jpeg": ("#616161", "-", "x"),
}
_OTHER = ("#000000", "-.", "+")
_RATES = (0.01, 1.0)


def plot_all(tables: Mapping[str, MetricTable], folder: Path) -> list[Path]:
    """``rate-METRIC.svg`` for every table, the same bytes for the same figures.

    Raises ImportError without matplotlib.
    """
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with mpl.rc_context({"svg.hashsalt": "featherwire", "svg.fonttype": "none"}):
        for name, table in tables.items():
            figure, axes = pyplot.subplots(figsize=(7, 4.6), layout="constrained")
            draw(axes, table)
            paths.append(folder / f"rate-{name}.svg")
            figure.savefig(paths[-1], metadata={"Date": None})
            pyplot.close(figure)
    return paths


def draw(axes: Axes, table: MetricTable) -> None:
    """One metric's curves; a band is the 95 % interval of ours over photos.

    A codec beyond the picture's rates (the null codec) is a level line: a bound on ours.
    """
    for codec in table.codecs:
        columns = table.columns(codec)
        colour, line, marker = _STYLES.get(codec, _OTHER)
        rates, values = table.rates[:, columns], table.values[:, columns]
        if rates[0].min() > _RATES[1]:
            text = f"{codec} ({rates[0].min():.1f} bpp)"
            axes.axhline(values[0].max(), color=colour, linestyle="--", linewidth=0.8, label=text)
            continue
        axes.plot(
            rates[0], values[0], line, color=colour, marker=marker, markersize=4,
            linewidth=2.2 if codec == OURS else 1.2, label=codec,
        )  # fmt: skip
        if codec == OURS and len(values) > 1:
            ends = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
            low, high = np.nanquantile(values[1:], ends, axis=0)
            axes.fill_between(rates[0], low, high, color=colour, alpha=0.15, linewidth=0)
    if table.original is not None:
        axes.axhline(float(table.original[0]), color="#9e9e9e", linestyle=":", label="uncompressed")
    axes.set_xscale("log")
    axes.set_xlim(*_RATES)
    ticks = [0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("bits per pixel, whole file")
    better = "higher" if table.metric.higher_is_better else "lower"
    axes.set_ylabel(f"{table.metric.label} ({better} is better)", fontsize=8)
    axes.set_title(f"{table.photos} photos", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, ncols=2)
