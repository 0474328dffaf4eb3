"""Measurements as arrays: photos by operating points, a table for every metric."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluate.average_precision import AveragePrecision
from training.evaluate.bd_rate import RateCurve
from training.evaluate.bootstrap import Floats, resample, weighted_means
from training.evaluate.measure import Measurements, Point
from training.evaluate.metrics import METRICS, Metric

ORIGINAL = "original"
Key = tuple[str, int]
"""Codec and knob."""


@dataclass(frozen=True)
class MetricTable:
    """A metric at every operating point, for the set of photos and for resamples of it.

    rates, values: float64 [1 + resamples, points], row 0 the set as it is, bits per pixel and the
    metric; photos: how many have the metric; original: the metric of uncompressed photos, where
    it means anything.
    """

    metric: Metric
    keys: tuple[Key, ...]
    rates: Floats
    values: Floats
    photos: int
    original: Floats | None = None

    @property
    def codecs(self) -> list[str]:
        """Codecs in order of their first appearance."""
        return list(dict.fromkeys(codec for codec, _ in self.keys))

    def columns(self, codec: str) -> list[int]:
        """Columns of a codec's operating points."""
        return [column for column, (name, _) in enumerate(self.keys) if name == codec]

    def curves(self, codec: str) -> list[RateCurve]:
        """The codec's curve, one for every row; qualities are negated distances."""
        columns = self.columns(codec)
        sign = 1.0 if self.metric.higher_is_better else -1.0
        return [
            RateCurve(rate, sign * value)
            for rate, value in zip(self.rates[:, columns], self.values[:, columns], strict=True)
        ]


def metric_tables(
    measurements: Measurements, *, resamples: int, seed: int = 0
) -> dict[str, MetricTable]:
    """Every metric that any photo has; photos are resampled among those that have it."""
    tables = {}
    for name, metric in METRICS.items():
        table = (
            _precision_table(measurements, metric, resamples, seed)
            if name == "detection_ap"
            else _mean_table(measurements.points, metric, resamples, seed)
        )
        if table is not None:
            tables[name] = table
    return tables


def _mean_table(
    points: Sequence[Point], metric: Metric, resamples: int, seed: int
) -> MetricTable | None:
    photos = sorted({p.photo for p in points if p.figures.get(metric.name) is not None})
    having = [p for p in points if metric.name in p.figures and p.codec != ORIGINAL]
    keys = tuple(dict.fromkeys((p.codec, p.knob) for p in having))
    if not photos or not keys:
        return None
    row = {photo: number for number, photo in enumerate(photos)}
    column = {key: number for number, key in enumerate(keys)}
    rates, values = (np.full((len(photos), len(keys)), np.nan) for _ in range(2))
    for point in having:
        if point.photo in row:
            place = row[point.photo], column[point.codec, point.knob]
            value = point.figures[metric.name]
            rates[place] = point.bits_per_pixel
            values[place] = np.nan if value is None else value
    weights = resample(len(photos), resamples, seed)
    return MetricTable(
        metric,
        keys,
        weighted_means(weights, rates),
        weighted_means(weights, values),
        len(photos),
    )


def _precision_table(
    measurements: Measurements, metric: Metric, resamples: int, seed: int
) -> MetricTable | None:
    found = [
        p
        for p in measurements.points
        if "detections" in p.figures and p.photo in measurements.truths
    ]
    photos = sorted({p.photo for p in found})
    keys = tuple(dict.fromkeys((p.codec, p.knob) for p in found))
    if not photos or not keys:
        return None
    truths = [measurements.truths[photo] for photo in photos]
    by_place = {(p.codec, p.knob, p.photo): p for p in found}
    weights = resample(len(photos), resamples, seed)
    rates, values = [], []
    original: Floats | None = None
    for codec, knob in keys:
        here = [by_place.get((codec, knob, photo)) for photo in photos]
        if any(point is None for point in here):
            continue
        detections = [point.figures["detections"] for point in here if point is not None]
        precision = AveragePrecision(truths, detections)(weights)
        if codec == ORIGINAL:
            original = precision
            continue
        rate = np.array([[point.bits_per_pixel for point in here if point is not None]]).T
        rates.append(weighted_means(weights, rate)[:, 0])
        values.append(precision)
    kept = tuple(key for key in keys if key[0] != ORIGINAL)
    if not values or len(kept) != len(values):
        return None
    return MetricTable(metric, kept, np.stack(rates, 1), np.stack(values, 1), len(photos), original)
