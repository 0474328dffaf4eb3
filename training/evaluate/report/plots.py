"""Rate against metrics and accuracy as SVG: the same bytes for the same figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from training.evaluate.curves import LEVEL, Floats
from training.evaluate.report.comparison import OURS
from training.evaluate.report.tables import Table

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
_OURS = ("#c2185b", "#7b1fa2", "#00838f", "#5d4037")
_LINES = {"": "-", "half": "--", "quarter": ":", "input": "-."}
_TICKS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)
_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def plot_all(tables: Mapping[str, Table], folder: Path) -> list[Path]:
    """``rate-METRIC.svg`` for every table. Raises ImportError without matplotlib."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, table in tables.items():
        paths.append(folder / f"rate-{name}.svg")
        with _figure(paths[-1], f"{table.photos} photos", (0.01, 1.0)) as axes:
            _draw_metric(axes, table)
    return paths


def plot_accuracy(table: Table, ours: Sequence[str], label: str, title: str, path: Path) -> None:
    """Shares of the uncompressed accuracy; bands are 95 % intervals of ours.

    Raises ImportError without matplotlib.
    """
    with _figure(path, title, (0.005, 2.0)) as axes:
        for subject in table.subjects:
            _draw_shares(axes, table, subject, list(ours))
        axes.axhline(1.0, color="#9e9e9e", linewidth=0.8)
        axes.set_ylim(0, 1.1)
        axes.set_xlabel("bits per pixel of the original, whole files")
        axes.set_ylabel(f"{label}, of the uncompressed network's", fontsize=8)
        axes.legend(fontsize=6, ncols=2)


@contextmanager
def _figure(path: Path, title: str, rates: tuple[float, float]) -> Iterator[Axes]:
    """Axes over a logarithmic rate; the picture is written to ``path`` at the end."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    with mpl.rc_context({"svg.hashsalt": "featherwire", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(7, 4.6), layout="constrained")
        axes.set_xscale("log")
        axes.set_xlim(*rates)
        ticks = [tick for tick in _TICKS if rates[0] <= tick <= rates[1]]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
        axes.set_title(title, fontsize=9)
        axes.grid(alpha=0.3)
        yield axes
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _draw_metric(axes: Axes, table: Table) -> None:
    """One metric's curves; a band is the 95 % interval of ours over photos.

    A codec beyond the picture's rates (the null baseline) is a level line: a bound on ours.
    """
    for codec in table.subjects:
        columns = table.columns(codec)
        colour, line, marker = _STYLES.get(codec, _OTHER)
        rates, values = table.rates[:, columns], table.values[:, columns]
        if rates[0].min() > axes.get_xlim()[1]:
            text = f"{codec} ({rates[0].min():.1f} bpp)"
            axes.axhline(values[0].max(), color=colour, linestyle="--", linewidth=0.8, label=text)
            continue
        axes.plot(
            rates[0], values[0], line, color=colour, marker=marker, markersize=4,
            linewidth=2.2 if codec == OURS else 1.2, label=codec,
        )  # fmt: skip
        if codec == OURS and len(values) > 1:
            _band(axes, rates[0], values[1:], colour)
    if table.original is not None:
        axes.axhline(float(table.original[0]), color="#9e9e9e", linestyle=":", label="uncompressed")
    axes.set_xlabel("bits per pixel, whole file")
    better = "higher" if table.metric.higher_is_better else "lower"
    axes.set_ylabel(f"{table.metric.label} ({better} is better)", fontsize=8)
    axes.legend(fontsize=7, ncols=2)


def _draw_shares(axes: Axes, table: Table, subject: str, ours: list[str]) -> None:
    columns = table.columns(subject)
    mine = subject in ours
    kind, _, size = subject.partition("-")
    colour = _OURS[ours.index(subject) % len(_OURS)] if mine else _STYLES.get(kind, _OTHER)[0]
    shares = np.stack([table.relative(column) for column in columns], 1)
    rates = table.rates[0, columns]
    if len(columns) == 1:
        text = f"{subject} ({rates[0]:.1f} bits per pixel)"
        axes.axhline(shares[0, 0], color=colour, linestyle=":", linewidth=1, label=text)
        return
    axes.plot(
        rates, shares[0], "-" if mine else _LINES.get(size, "-"), color=colour,
        marker="o" if mine else "", markersize=4, linewidth=2.2 if mine else 1.1, label=subject,
    )  # fmt: skip
    if mine and np.isfinite(shares[1:]).any(axis=0).all():
        _band(axes, rates, shares[1:], colour)


def _band(axes: Axes, rates: Floats, resampled: Floats, colour: str) -> None:
    low, high = np.nanquantile(resampled, _ENDS, axis=0)
    axes.fill_between(rates, low, high, color=colour, alpha=0.15, linewidth=0)
