"""What curves say: rate differences at equal value, values at equal rate, bits at equal accuracy.

Every interval is of resamples of the photos, the same for all subjects: comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.evaluate.baselines import variants
from training.evaluate.curves import (
    RATES,
    Floats,
    RateCurve,
    RateDifference,
    best_quality,
    interval,
    rate_difference,
)
from training.evaluate.report.tables import UNCOMPRESSED, Table

OURS = "featherwire"
Anchors = Mapping[str, tuple[str, ...]]
"""What anyone would compare with, and the codecs whose lower envelope it is."""
PICTURE_ANCHORS: Anchors = {
    "AVIF, better of full and half size": ("avif", "avif-half"),
    "AVIF, best of full, half and quarter size": ("avif", "avif-half", "avif-quarter"),
    "JPEG XL, better of full and half size": ("jxl", "jxl-half"),
    "WebP": ("webp",),
    "JPEG": ("jpeg",),
}
MACHINE_ANCHORS: Anchors = {
    "AVIF, best of its sizes": variants("avif"),
    "AVIF at the network's input size": ("avif-input",),
    "JPEG XL, best of its sizes": variants("jxl"),
    "WebP, best of its sizes": variants("webp"),
    "JPEG, best of its sizes": variants("jpeg"),
}
EQUAL_RATES = (0.03, 0.05, 0.1, 0.2, 0.4)
"""Bits per pixel at which values are compared."""
SHARES = (0.90, 0.97)
"""Shares of the uncompressed accuracy at which bits are compared."""
LEAST_COVERED = 0.1
"""Below this share of common values a mean rate difference of pictures says nothing."""
_ALL_RATES = (1e-6, 100.0)

Row = dict[str, Any]
Pair = tuple[float, float]


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

    def row(self, name: str, digits: int) -> Row:
        """JSON-ready: ``name`` and ``interval_95``."""
        return {name: rounded(self.value, digits), "interval_95": _pair(self.interval, digits)}


def bd_rate(
    table: Table,
    subject: str,
    anchors: Sequence[str],
    rates: tuple[float, float] = _ALL_RATES,
    least_covered: float = 0.0,
) -> tuple[Estimate, RateDifference]:
    """The subject's mean rate difference at equal value against the anchors' lower envelope.

    least_covered: share of the subject's values that the anchors must reach. Also returns the
    difference of the set as it is.
    """
    theirs = [table.curves(name) for name in table.present(anchors)]
    rows = [
        rate_difference(curve, [curves[row] for curves in theirs], rates)
        for row, curve in enumerate(table.curves(subject))
    ]
    values = np.array(
        [np.nan if row.value is None or row.covered < least_covered else row.value for row in rows]
    )
    return Estimate.of(values), rows[0]


# -- of pictures -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """Ours against an anchor; ``rate.value``: -0.3 for 30 % fewer bits, None with a ``note``."""

    metric: str
    anchor: str
    rate: Estimate
    covered: float
    note: str

    def to_dict(self) -> Row:
        """JSON-ready values, rounded to what they are worth."""
        return {
            "metric": self.metric,
            "anchor": self.anchor,
            **self.rate.row("bd_rate", 4),
            "covered": round(self.covered, 3),
            "note": self.note,
        }


def bd_rates(
    table: Table,
    anchors: Anchors = PICTURE_ANCHORS,
    rates: tuple[float, float] = RATES,
    ours: str = OURS,
) -> list[Comparison]:
    """Ours against every anchor, by one metric."""
    if ours not in table.subjects:
        return []
    found = []
    for anchor, names in anchors.items():
        if not table.present(names):
            continue
        rate, whole = bd_rate(table, ours, names, rates, LEAST_COVERED)
        theirs = [table.curves(name)[0] for name in table.present(names)]
        note = _note(whole, table.curves(ours)[0], theirs, rates)
        found.append(Comparison(table.metric.name, anchor, rate, whole.covered, note))
    return found


def _note(
    found: RateDifference,
    ours: RateCurve,
    theirs: Sequence[RateCurve],
    rates: tuple[float, float],
) -> str:
    """Why a curve does not cover ours, in words; empty when it nearly does."""
    if ours.window(rates) is None:
        return f"ours has no points between {rates[0]:g} and {rates[1]:g} bpp"
    if found.covered > 0.95:
        return ""
    parts = []
    smallest = min((np.exp(c.log_rates[0]) for c in theirs if c.log_rates.size), default=np.nan)
    largest = max((np.exp(c.log_rates[-1]) for c in theirs if c.log_rates.size), default=np.nan)
    if found.below > 0.05:
        share = f"{found.below:.0%}"
        parts.append(f"its coarsest, {smallest:.3f} bpp, is better than {share} of our range")
    if found.above > 0.05:
        share = f"{found.above:.0%}"
        parts.append(f"its finest, {largest:.2f} bpp, is worse than {share} of our range")
    return "; ".join(parts)


def equal_rate_rows(
    table: Table, anchors: Anchors = PICTURE_ANCHORS, rates: Sequence[float] = EQUAL_RATES
) -> list[Row]:
    """The metric of ours and of every anchor (its best codec there) at equal rates.

    ``value`` is None where a codec has no file of that rate; ``ours_minus`` is ours less the
    anchor's, with its 95 % interval. AP comes with its share of the uncompressed AP too.
    """
    sign = 1.0 if table.metric.higher_is_better else -1.0
    contenders = {
        name: [table.curves(codec) for codec in table.present(codecs)]
        for name, codecs in {OURS: (OURS,), **anchors}.items()
        if table.present(codecs)
    }
    rows: list[Row] = []
    for rate in rates:
        values = {
            name: sign
            * np.array(
                [best_quality([c[row] for c in curves], rate) for row in range(len(table.values))]
            )
            for name, curves in contenders.items()
        }
        for name, of_rows in values.items():
            row: Row = {"metric": table.metric.name, "bits_per_pixel": rate, "codec": name}
            row |= {
                "value": rounded(of_rows[0], 5),
                "interval_95": _pair(interval(of_rows[1:]), 5),
            }
            if table.original is not None:
                row["of_uncompressed"] = rounded(of_rows[0] / table.original[0], 5)
            if name != OURS and OURS in values:
                difference = values[OURS] - of_rows
                row["ours_minus"] = rounded(difference[0], 5)
                row["ours_minus_interval_95"] = _pair(interval(difference[1:]), 5)
            rows.append(row)
    return rows


# -- of accuracy -----------------------------------------------------------------------------------


def bits_at(table: Table, subjects: Sequence[str], share: float) -> Floats:
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


def point_rows(table: Table) -> list[Row]:
    """A row for the uncompressed photos and for every operating point: bits, figures, shares."""
    rows: list[Row] = []
    for key, figures in table.figures.items():
        subject, knob = key
        row: Row = {"subject": subject, "knob": knob}
        if subject != UNCOMPRESSED:
            column = table.keys.index(key)
            share = Estimate.of(table.relative(column))
            row |= {
                "bits_per_pixel": rounded(table.rates[0, column], 5),
                "of_uncompressed": rounded(share.value, 4),
                "of_uncompressed_interval_95": _pair(share.interval, 4),
            }
        rows.append(row | {name: rounded(value, 5) for name, value in figures.items()})
    return rows


def share_rows(table: Table, ours: Sequence[str]) -> list[Row]:
    """Bits of ours and of the baselines at shares of the uncompressed accuracy.

    ``saving``: 0.5 where ours needs half of the baseline's bits; None, with a ``note``, where one
    of the two curves does not reach the share, or begins above it.
    """
    rows = []
    for share in SHARES:
        theirs = {
            name: bits_at(table, subjects, share)
            for name, subjects in MACHINE_ANCHORS.items()
            if table.present(subjects)
        }
        for name, bits in theirs.items():
            rows.append(_share_row(table, share, name, MACHINE_ANCHORS[name], bits))
        for subject in table.present(ours):
            bits = bits_at(table, [subject], share)
            row = _share_row(table, share, subject, [subject], bits)
            row["savings"] = {
                name: Estimate.of(1 - bits / others).row("saving", 4)
                for name, others in theirs.items()
            }
            rows.append(row)
    return rows


def _share_row(table: Table, share: float, name: str, subjects: Sequence[str], bits: Floats) -> Row:
    estimate = Estimate.of(bits)
    return {
        "share": share,
        "subject": name,
        **estimate.row("bits_per_pixel", 5),
        "note": _why(table, subjects, share) if estimate.value is None else "",
    }


def _why(table: Table, subjects: Sequence[str], share: float) -> str:
    """Why a curve has no such point."""
    columns = [c for name in table.present(subjects) for c in table.columns(name)]
    if not columns or not table.uncompressed[0] > 0:
        return "nothing to compare with"
    shares = table.values[0, columns] / table.uncompressed[0]
    if shares.max() < share:
        return f"its best is {shares.max():.1%}"
    if shares.min() > share:
        lowest = table.rates[0, columns].min()
        return f"its coarsest, {lowest:.4f} bits per pixel, is better: {shares.min():.1%}"
    return "too few points"


def bd_rows(table: Table, ours: Sequence[str]) -> list[Row]:
    """Mean rate differences at equal accuracy over all of ours that a baseline reaches."""
    rows: list[Row] = []
    for subject in table.present(ours):
        for name, anchors in MACHINE_ANCHORS.items():
            if table.present(anchors):
                estimate, difference = bd_rate(table, subject, anchors)
                row: Row = {"subject": subject, "anchor": name, **estimate.row("bd_rate", 4)}
                rows.append(row | {"covered": round(difference.covered, 3)})
    return rows


def uncompressed_row(table: Table) -> Row:
    """The headline figure of uncompressed photos."""
    return {
        "value": rounded(table.uncompressed[0], 5),
        "interval_95": _pair(interval(table.uncompressed[1:]), 5),
    }


def rounded(value: float | None, digits: int) -> float | None:
    """JSON-ready; None for what is not finite."""
    return None if value is None or not np.isfinite(value) else round(float(value), digits)


def _pair(pair: Pair | None, digits: int) -> list[float] | None:
    return None if pair is None else [round(value, digits) for value in pair]
