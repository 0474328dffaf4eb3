"""Measurements as tables: a figure at every operating point, of the set and of resamples of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from training.evaluate.curves import Floats, RateCurve, resample, weighted_means
from training.evaluate.judges.average_precision import AveragePrecision, match_photos
from training.evaluate.judges.kinds import Kind, SetJudge
from training.evaluate.judges.metrics import METRICS, Metric
from training.evaluate.measure import Column, Key, Measurements

ORIGINAL = "original"
UNCOMPRESSED = "uncompressed"
PRECISIONS = {"detection_ap": "detections", "detection_ap_tiled": "detections_tiled"}
"""Metrics that are of a set of photos: which figures of every photo they are made of."""


@dataclass(frozen=True)
class Table:
    """A metric at every operating point, for the set of photos and for resamples of it.

    rates, values: float64 [1 + resamples, points], row 0 the set as it is, bits per pixel and the
    metric; photos: how many have the metric; original: the metric of uncompressed photos, where
    it means anything, [1 + resamples]; figures: all that a judge says of the set as it is.
    """

    metric: Metric
    keys: tuple[Key, ...]
    rates: Floats
    values: Floats
    photos: int
    original: Floats | None = None
    figures: Mapping[Key, Mapping[str, float | None]] = field(default_factory=dict)
    _known: dict[str, list[RateCurve]] = field(default_factory=dict)

    @property
    def subjects(self) -> list[str]:
        """In order of measuring, without the uncompressed photos."""
        return list(dict.fromkeys(name for name, _ in self.keys))

    def columns(self, subject: str) -> list[int]:
        """Columns of a subject's operating points."""
        return [column for column, (name, _) in enumerate(self.keys) if name == subject]

    def curves(self, subject: str) -> list[RateCurve]:
        """The subject's curve, one for every row, through the points that pay.

        Qualities are negated distances.
        """
        if subject not in self._known:
            columns = self.columns(subject)
            sign = 1.0 if self.metric.higher_is_better else -1.0
            pairs = zip(self.rates[:, columns], self.values[:, columns], strict=True)
            self._known[subject] = [RateCurve(rate, sign * value) for rate, value in pairs]
        return self._known[subject]

    def present(self, subjects: Sequence[str]) -> list[str]:
        """Those that were measured."""
        return [name for name in subjects if name in self.subjects]

    @property
    def uncompressed(self) -> Floats:
        """The metric of uncompressed photos; NaN where nobody measured it."""
        nothing = np.full(len(self.values), np.nan)
        return nothing if self.original is None else self.original

    def relative(self, column: int) -> Floats:
        """A point's share of the uncompressed value, every row; NaN where that is 0."""
        return divided(self.values[:, column], self.uncompressed)


def divided(values: Floats, by: Floats) -> Floats:
    """values / by, NaN where ``by`` is 0."""
    known = np.isfinite(by) & (by != 0)
    return np.divide(values, by, out=np.full(len(values), np.nan), where=known)


def task_table(
    measurements: Measurements, kind: Kind, judge: SetJudge, *, resamples: int, seed: int = 0
) -> Table:
    """A task's headline figure at every operating point; the same resamples for all of them."""
    photos = len(measurements.photos)
    weights = resample(photos, resamples, seed)
    columns = measurements.columns
    figures = {key: judge.figures(column.outputs) for key, column in columns.items()}
    values = {
        key: judge.resampled(judge.matched(column.outputs), weights)
        for key, column in columns.items()
    }
    keys = tuple(key for key in columns if key[0] != UNCOMPRESSED)
    whole = [value for key, value in values.items() if key[0] == UNCOMPRESSED]
    return Table(
        Metric(kind.headline, kind.label, True, 4),
        keys,
        _stacked([weights @ columns[key].rates / weights.sum(1) for key in keys], len(weights)),
        _stacked([values[key] for key in keys], len(weights)),
        photos,
        whole[0] if whole else None,
        figures,
    )


def metric_tables(measurements: Measurements, *, resamples: int, seed: int = 0) -> dict[str, Table]:
    """Every metric that any photo has; photos are resampled among those that have it."""
    tables = {}
    for name, metric in METRICS.items():
        make = _precision_table if name in PRECISIONS else _mean_table
        table = make(measurements, metric, resamples, seed)
        if table is not None:
            tables[name] = table
    return tables


def _mean_table(
    measurements: Measurements, metric: Metric, resamples: int, seed: int
) -> Table | None:
    columns = {
        key: [figures.get(metric.name) for figures in column.figures]
        for key, column in measurements.columns.items()
        if key[0] != ORIGINAL and any(metric.name in one for one in column.figures)
    }
    photos = _sorted(
        measurements, {n for rows in columns.values() for n, v in enumerate(rows) if v is not None}
    )
    if not photos:
        return None
    rates, values = (np.full((len(photos), len(columns)), np.nan) for _ in range(2))
    for place, (key, found) in enumerate(columns.items()):
        column = measurements.columns[key]
        for row, photo in enumerate(photos):
            value = found[photo]
            if metric.name in column.figures[photo]:
                rates[row, place] = column.bits_per_pixel[photo]
                values[row, place] = np.nan if value is None else value
    weights = resample(len(photos), resamples, seed)
    return Table(
        metric,
        tuple(columns),
        weighted_means(weights, rates),
        weighted_means(weights, values),
        len(photos),
    )


def _precision_table(
    measurements: Measurements, metric: Metric, resamples: int, seed: int
) -> Table | None:
    kept = PRECISIONS[metric.name]
    truths = [photo.truth for photo in measurements.photos]
    found = {
        key: column
        for key, column in measurements.columns.items()
        if any(kept in figures for figures in column.figures)
    }
    photos = _sorted(
        measurements,
        {
            number
            for number, truth in enumerate(truths)
            if truth is not None
            and any(kept in column.figures[number] for column in found.values())
        },
    )
    keys = tuple(key for key in found if key[0] != ORIGINAL)
    complete = all(kept in found[key].figures[photo] for key in found for photo in photos)
    if not photos or not keys or not complete:
        return None
    known = [truths[photo] or () for photo in photos]
    weights = resample(len(photos), resamples, seed)

    def precision(column: Column) -> Floats:
        detections: list[Any] = [column.figures[photo][kept] for photo in photos]
        return AveragePrecision(match_photos(known, detections))(weights)

    originals = [precision(column) for key, column in found.items() if key[0] == ORIGINAL]
    rates = np.stack([found[key].rates[photos] for key in keys], 1)
    return Table(
        metric,
        keys,
        weighted_means(weights, rates),
        np.stack([precision(found[key]) for key in keys], 1),
        len(photos),
        originals[0] if originals else None,
    )


def _sorted(measurements: Measurements, photos: set[int]) -> list[int]:
    """Numbers of photos in the order of their names, whatever the order of the set."""
    return sorted(photos, key=lambda number: measurements.photos[number].name)


def _stacked(columns: Sequence[Floats], rows: int) -> Floats:
    return np.stack(columns, 1) if columns else np.zeros((rows, 0))
