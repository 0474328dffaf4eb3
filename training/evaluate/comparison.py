"""What the curves say: rate differences at equal value, values at equal rate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.evaluate.bd_rate import RATES, RateCurve, best_quality, rate_difference
from training.evaluate.bootstrap import interval
from training.evaluate.tables import MetricTable

OURS = "featherwire"
ANCHORS: dict[str, tuple[str, ...]] = {
    "AVIF, better of full and half size": ("avif", "avif-half"),
    "AVIF, best of full, half and quarter size": ("avif", "avif-half", "avif-quarter"),
    "JPEG XL, better of full and half size": ("jxl", "jxl-half"),
    "WebP": ("webp",),
    "JPEG": ("jpeg",),
}
"""What anyone would compare with, and the codecs whose lower envelope it is."""
EQUAL_RATES = (0.03, 0.05, 0.1)
"""Bits per pixel at which values are compared."""
LEAST_COVERED = 0.1
"""Below this share of common values a mean rate difference says nothing."""


@dataclass(frozen=True)
class Comparison:
    """``rate_change``: -0.3 for 30 % fewer bits; None with a ``note`` that says why."""

    metric: str
    anchor: str
    rate_change: float | None
    interval: tuple[float, float] | None
    covered: float
    note: str

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, rounded to what they are worth."""
        return {
            "metric": self.metric,
            "anchor": self.anchor,
            "bd_rate": None if self.rate_change is None else round(self.rate_change, 4),
            "interval_95": None if self.interval is None else [round(v, 4) for v in self.interval],
            "covered": round(self.covered, 3),
            "note": self.note,
        }


def bd_rates(
    table: MetricTable,
    anchors: Mapping[str, tuple[str, ...]] = ANCHORS,
    rates: tuple[float, float] = RATES,
) -> list[Comparison]:
    """Ours against every anchor, by one metric."""
    if OURS not in table.codecs:
        return []
    curves = {codec: table.curves(codec) for codec in table.codecs}
    return [
        _compare(table, anchor, curves[OURS], [curves[c] for c in codecs if c in curves], rates)
        for anchor, codecs in anchors.items()
        if any(codec in curves for codec in codecs)
    ]


def _compare(
    table: MetricTable,
    anchor: str,
    ours: Sequence[RateCurve],
    theirs: Sequence[Sequence[RateCurve]],
    rates: tuple[float, float],
) -> Comparison:
    rows = [
        rate_difference(mine, [curves[row] for curves in theirs], rates)
        for row, mine in enumerate(ours)
    ]
    whole, resampled = rows[0], rows[1:]
    enough = whole.value is not None and whole.covered >= LEAST_COVERED
    values = [
        np.nan if row.value is None or row.covered < LEAST_COVERED else row.value
        for row in resampled
    ]
    return Comparison(
        table.metric.name,
        anchor,
        whole.value if enough else None,
        interval(values) if enough else None,
        whole.covered,
        _note(whole.covered, whole.below, whole.above, ours[0], [c[0] for c in theirs], rates),
    )


def _note(
    covered: float,
    below: float,
    above: float,
    ours: RateCurve,
    theirs: Sequence[RateCurve],
    rates: tuple[float, float],
) -> str:
    """Why a curve does not cover ours, in words; empty when it nearly does."""
    if ours.window(rates) is None:
        return f"ours has no points between {rates[0]:g} and {rates[1]:g} bpp"
    if covered > 0.95:
        return ""
    parts = []
    smallest = min((np.exp(c.log_rates[0]) for c in theirs if c.log_rates.size), default=np.nan)
    largest = max((np.exp(c.log_rates[-1]) for c in theirs if c.log_rates.size), default=np.nan)
    if below > 0.05:
        parts.append(f"its coarsest, {smallest:.3f} bpp, is better than {below:.0%} of our range")
    if above > 0.05:
        parts.append(f"its finest, {largest:.2f} bpp, is worse than {above:.0%} of our range")
    return "; ".join(parts)


def equal_rate_rows(
    table: MetricTable,
    anchors: Mapping[str, tuple[str, ...]] = ANCHORS,
    rates: Sequence[float] = EQUAL_RATES,
) -> list[dict[str, Any]]:
    """The metric of ours and of every anchor (its best codec there) at equal rates.

    ``value`` is None where a codec has no file of that rate; ``ours_minus`` is ours less the
    anchor's, with its 95 % interval. AP comes with its share of the uncompressed AP too.
    """
    sign = 1.0 if table.metric.higher_is_better else -1.0
    curves = {codec: table.curves(codec) for codec in table.codecs}
    rows: list[dict[str, Any]] = []
    contenders = {OURS: (OURS,), **anchors}
    for rate in rates:
        values = {
            name: sign
            * np.array(
                [
                    best_quality([curves[c][row] for c in codecs if c in curves], rate)
                    for row in range(len(table.values))
                ]
            )
            for name, codecs in contenders.items()
            if any(codec in curves for codec in codecs)
        }
        for name, of_rows in values.items():
            row: dict[str, Any] = {
                "metric": table.metric.name,
                "bits_per_pixel": rate,
                "codec": name,
                "value": _rounded(of_rows[0]),
                "interval_95": _rounded_pair(interval(of_rows[1:])),
            }
            if table.original is not None:
                row["of_uncompressed"] = _rounded(of_rows[0] / table.original[0])
            if name != OURS and OURS in values:
                difference = values[OURS] - of_rows
                row["ours_minus"] = _rounded(difference[0])
                row["ours_minus_interval_95"] = _rounded_pair(interval(difference[1:]))
            rows.append(row)
    return rows


def _rounded(value: float) -> float | None:
    return round(float(value), 5) if np.isfinite(value) else None


def _rounded_pair(pair: tuple[float, float] | None) -> list[float] | None:
    return None if pair is None else [round(value, 5) for value in pair]
