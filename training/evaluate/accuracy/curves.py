"""Accuracy over rate for the set and for resamples of it; every comparison is paired by photo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from training.evaluate.accuracy.base import Figures, Judge
from training.evaluate.accuracy.points import Key, Points
from training.evaluate.accuracy.rivals import variants
from training.evaluate.bd_rate import RateCurve, RateDifference, rate_difference
from training.evaluate.bootstrap import Floats, interval, resample

UNCOMPRESSED = "uncompressed"
SHARES = (0.90, 0.97)
"""Shares of the uncompressed accuracy at which bits are compared."""
ANCHORS = {
    "AVIF, best of its sizes": variants("avif"),
    "AVIF at the network's input size": ("avif-input",),
    "JPEG XL, best of its sizes": variants("jxl"),
    "WebP, best of its sizes": variants("webp"),
    "JPEG, best of its sizes": variants("jpeg"),
}
_ALL_RATES = (1e-6, 100.0)

Pair = tuple[float, float]


@dataclass(frozen=True)
class AccuracyTable:
    """The headline figure at every operating point.

    rates, values: float64 [1 + resamples, points], row 0 the set as it is; uncompressed: float64
    [1 + resamples]; figures: all figures of the set as it is.
    """

    keys: tuple[Key, ...]
    rates: Floats
    values: Floats
    uncompressed: Floats
    figures: Mapping[Key, Figures]
    _known: dict[str, list[RateCurve]] = field(default_factory=dict)

    @property
    def subjects(self) -> list[str]:
        """In order of measuring, without the uncompressed photos."""
        return list(dict.fromkeys(name for name, _ in self.keys))

    def columns(self, subject: str) -> list[int]:
        """Columns of a subject's operating points."""
        return [column for column, (name, _) in enumerate(self.keys) if name == subject]

    def curves(self, subject: str) -> list[RateCurve]:
        """The subject's curve, one for every row; through the points that pay."""
        if subject not in self._known:
            columns = self.columns(subject)
            pairs = zip(self.rates[:, columns], self.values[:, columns], strict=True)
            self._known[subject] = [RateCurve(rate, value) for rate, value in pairs]
        return self._known[subject]

    def present(self, subjects: Sequence[str]) -> list[str]:
        """Those that were measured."""
        return [name for name in subjects if name in self.subjects]

    def relative(self, column: int) -> Floats:
        """A point's share of the uncompressed accuracy, every row; NaN where that is 0."""
        return divided(self.values[:, column], self.uncompressed)


def accuracy_table(points: Points, judge: Judge, *, resamples: int, seed: int = 0) -> AccuracyTable:
    """Judge every operating point; the same resamples of the photos for all of them."""
    weights = resample(len(points.photos), resamples, seed)
    totals = weights.sum(1)
    keys, rates, values, figures = [], [], [], {}
    uncompressed = np.full(len(weights), np.nan)
    for key, column in points.columns.items():
        figures[key] = judge.figures(column.outputs)
        accuracy = judge.resampled(judge.matched(column.outputs), weights)
        if key[0] == UNCOMPRESSED:
            uncompressed = accuracy
            continue
        keys.append(key)
        rates.append(weights @ column.rates / totals)
        values.append(accuracy)
    empty = np.zeros((len(weights), 0))
    return AccuracyTable(
        tuple(keys),
        np.stack(rates, 1) if rates else empty,
        np.stack(values, 1) if values else empty,
        uncompressed,
        figures,
    )


def divided(values: Floats, by: Floats) -> Floats:
    """values / by, NaN where ``by`` is 0."""
    known = np.isfinite(by) & (by != 0)
    return np.divide(values, by, out=np.full(len(values), np.nan), where=known)


@dataclass(frozen=True)
class Estimate:
    """A figure of the set and its 95 % interval over resamples; None where there is none."""

    value: float | None
    interval: Pair | None

    @classmethod
    def of(cls, rows: Floats) -> Estimate:
        """rows: [1 + resamples], row 0 the set as it is."""
        if not np.isfinite(rows[0]):
            return cls(None, None)
        return cls(float(rows[0]), interval(rows[1:]))


def bits_at(table: AccuracyTable, subjects: Sequence[str], share: float) -> Floats:
    """Fewest bits per pixel of any of the subjects at a share of the uncompressed accuracy.

    float64 [1 + resamples]; interpolated on curves, NaN where none of them reaches it, or all
    are already better at their coarsest.
    """
    wanted = share * table.uncompressed
    found = np.full(len(wanted), np.nan)
    for subject in table.present(subjects):
        logs = [
            curve.log_rate(np.array([quality]))[0]
            for curve, quality in zip(table.curves(subject), wanted, strict=True)
        ]
        found = np.fmin(found, np.exp(logs))
    return found


def bd_rate(
    table: AccuracyTable, subject: str, anchors: Sequence[str]
) -> tuple[Estimate, RateDifference]:
    """The subject's mean rate difference at equal accuracy against the anchors' lower envelope."""
    theirs = [table.curves(name) for name in table.present(anchors)]
    rows = [
        rate_difference(curve, [curves[row] for curves in theirs], _ALL_RATES)
        for row, curve in enumerate(table.curves(subject))
    ]
    values = np.array([np.nan if row.value is None else row.value for row in rows])
    return Estimate.of(values), rows[0]
