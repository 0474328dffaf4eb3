"""Accuracy over bytes a frame, a picture a clip; the same bytes for the same figures."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from benchmarks.video.compare import Value, precision_of
from benchmarks.video.judge import FLOOR
from benchmarks.video.measure import ClipResult
from benchmarks.video.ours import KEYS
from benchmarks.video.report import HEADLINE, Results
from training.evaluate.judges.metrics import METRICS

_COLOURS = {"x264": "#1565c0", "x265": "#2e7d32", "svt-av1": "#ef6c00"}
_OURS = ("#c2185b", "#7b1fa2", "#00838f", "#5d4037")


def plot(results: Results, folder: Path) -> list[Path]:
    """``CLIP.svg`` of every clip with objects, and ``CLIP-METRIC.svg`` where pictures were made.

    Raises ImportError without matplotlib.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for clip in results.clips:
        for group in (HEADLINE, "all"):
            if any((FLOOR, group, "ap") in point.precision for point in clip.points):
                paths.append(folder / f"{clip.name}.svg")
                value = precision_of((FLOOR, group, "ap"))
                _draw(results, clip, value, f"AP of {group}", paths[-1])
                break
        for metric in dict.fromkeys(name for point in clip.points for name in point.pictures):
            paths.append(folder / f"{clip.name}-{metric}.svg")
            _draw(results, clip, _metric(metric), METRICS[metric].label, paths[-1])
    return paths


def _metric(name: str) -> Value:
    return lambda point: np.array([point.pictures[name]]) if name in point.pictures else None


def _draw(results: Results, clip: ClipResult, value: Value, label: str, path: Path) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    with mpl.rc_context({"svg.hashsalt": "featherwire", "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(7, 4.6), layout="constrained")
        axes.set_xscale("log")
        for subject in [*results.rivals, *results.reduced, *results.ours]:
            pairs = [
                (point.bytes_per_frame, float(rows[0]))
                for point in clip.of(subject)
                for rows in [value(point)]
                if rows is not None
            ]
            if not pairs:
                continue
            mine = subject in results.ours
            colour, line = _style(subject, results)
            axes.plot(
                *zip(*sorted(pairs), strict=True), line, color=colour, label=subject,
                marker="o", markersize=4 if mine else 2.5, linewidth=2.2 if mine else 1.1,
            )  # fmt: skip
        kinds = " ".join((*clip.nature.kinds, *clip.derived))
        axes.set_title(f"{clip.name}: {kinds}, {clip.frames} frames", fontsize=9)
        axes.set_xlabel("bytes a frame")
        axes.set_ylabel(label, fontsize=8)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=7, ncols=2)
        figure.savefig(path, metadata={"Date": None})
        pyplot.close(figure)


def _style(subject: str, results: Results) -> tuple[str, str]:
    """A colour a codec; fast presets, reduced frames, and streams of key frames are not solid."""
    if subject in results.ours:
        name = subject.removesuffix(f"-{KEYS}")
        names = list(dict.fromkeys(one.removesuffix(f"-{KEYS}") for one in results.ours))
        return _OURS[names.index(name) % len(_OURS)], "--" if name != subject else "-"
    codec = subject.removesuffix("-fast").removesuffix("-input")
    line = "--" if subject.endswith("-fast") else ":" if subject in results.reduced else "-"
    return _COLOURS.get(codec, "#616161"), line
