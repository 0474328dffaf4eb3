"""Bits at equal value: clip by clip, and the mean over clips with its interval.

A curve is of one clip; the mean is of the logarithms of rate ratios, every clip the same. Intervals
are of resamples of the clips, and of the judged frames within each (in blocks, the same for all
that is compared), where what is held equal has those: with few clips or frames they are wide.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.video.judge import RESAMPLES, Key
from benchmarks.video.measure import ClipResult, Point
from benchmarks.video.nature import FIXED, MOVING
from training.evaluate.curves import Floats, RateCurve, interval, rate_difference, resample
from training.evaluate.judges.metrics import METRICS

Value = Callable[[Point], Floats | None]
"""What is held equal, higher is better, and its resamples: [1 + n]; None where not measured."""
_ALL_RATES = (1e-9, 1e12)
_LEAST_COVERED = 0.1
"""Share of the subject's values that a clip's anchors must reach, for its ratio to count."""


@dataclass(frozen=True)
class Difference:
    """Ours against the best of some anchors. ratio: -0.6 for 60 % fewer bits; None with no overlap.

    covered: which share of our values the anchors reach; below: where their worst is still better.
    above: where their best is still worse. rows: the ratio, and that of every resample; NaN is
    none.
    """

    ratio: float | None
    rows: Floats
    covered: float
    below: float
    above: float


@dataclass(frozen=True)
class Mean:
    """Over the clips of a group. clips: how many have a ratio, of how many."""

    ratio: float | None
    interval_95: tuple[float, float] | None
    clips: tuple[int, int]


def precision_of(key: Key) -> Value:
    """Average precision by floor, group and measure."""

    def value(point: Point) -> Floats | None:
        found = point.precision.get(key)
        return None if found is None else found.rows

    return value


def picture_of(metric: str) -> Value:
    """A metric of pictures, distances negated."""
    sign = 1.0 if METRICS[metric].higher_is_better else -1.0

    def value(point: Point) -> Floats | None:
        return np.array([sign * point.pictures[metric]]) if metric in point.pictures else None

    return value


def curve(points: Sequence[Point], value: Value, row: int = 0) -> RateCurve:
    """Bytes a frame over the value. row: 0 is all frames, others are resamples."""
    pairs = [
        (point.bytes_per_frame, rows[row])
        for point in points
        for rows in [value(point)]
        if rows is not None
    ]
    return RateCurve([pair[0] for pair in pairs], [pair[1] for pair in pairs])


def difference(
    clip: ClipResult, subject: str, anchors: Sequence[str], value: Value
) -> Difference | None:
    """Of one clip; None where the value was not measured of the subject."""
    rows = min((len(found) for point in clip.of(subject) for found in [value(point)]
                if found is not None), default=0)  # fmt: skip
    if not rows:
        return None
    found = [
        rate_difference(
            curve(clip.of(subject), value, row),
            [curve(clip.of(name), value, row) for name in anchors],
            _ALL_RATES,
        )
        for row in range(rows)
    ]
    ratios = [
        one.value if one.value is not None and one.covered >= _LEAST_COVERED else np.nan
        for one in found
    ]
    ratio = None if np.isnan(ratios[0]) else float(ratios[0])
    first = found[0]
    return Difference(ratio, np.array(ratios), first.covered, first.below, first.above)


def bytes_needed(
    clip: ClipResult, anchors: Sequence[str], value: Value, level: float
) -> tuple[float, str] | None:
    """The fewest bytes a frame at which an anchor is at ``level``, and whose; None out of reach."""
    found = []
    for name in anchors:
        log_rate = float(curve(clip.of(name), value).log_rate(np.array([level]))[0])
        if np.isfinite(log_rate):
            found.append((float(np.exp(log_rate)), name))
    return min(found, default=None)


def groups_of(clips: Sequence[ClipResult]) -> Mapping[str, list[ClipResult]]:
    """Fixed cameras, moving ones, all; derived clips are in none, and each stands for itself."""
    whole = [clip for clip in clips if not clip.derived]
    groups = {
        FIXED: [clip for clip in whole if clip.nature.camera == FIXED],
        MOVING: [clip for clip in whole if clip.nature.camera == MOVING],
        "all": whole,
    }
    return {name: members for name, members in groups.items() if members}


def mean(found: Sequence[Difference | None]) -> Mean:
    """The mean ratio over clips, a difference each, with its 95 % interval where there can be."""
    known = [one for one in found if one is not None and one.ratio is not None]
    count = (len(known), len(found))
    if not known:
        return Mean(None, None, count)
    logs = np.log1p(np.stack([_stretched(one.rows) for one in known], 1))
    weights = resample(len(known), RESAMPLES)
    values = np.where(np.isfinite(logs), weights, 0.0)
    total = (np.nan_to_num(logs) * values).sum(1)
    counted = values.sum(1)
    means = np.divide(total, counted, out=np.full(len(total), np.nan), where=counted > 0)
    ratios = np.expm1(means)
    enough = len(known) >= 3 or all(len(one.rows) > 1 for one in known)
    return Mean(float(ratios[0]), interval(ratios[1:]) if enough else None, count)


def _stretched(rows: Floats) -> Floats:
    """Without resamples of its own, a clip's ratio is the same in all."""
    return rows if len(rows) > 1 else np.full(1 + RESAMPLES, rows[0])
