"""What the points say, JSON-ready: every point, bits at equal accuracy, rate differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.evaluate.accuracy.curves import (
    ANCHORS,
    SHARES,
    UNCOMPRESSED,
    AccuracyTable,
    Estimate,
    bd_rate,
    bits_at,
)
from training.evaluate.bootstrap import interval


def point_rows(table: AccuracyTable) -> list[dict[str, Any]]:
    """A row for the uncompressed photos and for every operating point: bits, figures, shares."""
    rows: list[dict[str, Any]] = []
    for key, figures in table.figures.items():
        subject, knob = key
        row: dict[str, Any] = {"subject": subject, "knob": knob}
        if subject != UNCOMPRESSED:
            column = table.keys.index(key)
            share = Estimate.of(table.relative(column))
            row |= {
                "bits_per_pixel": _rounded(table.rates[0, column], 5),
                "of_uncompressed": _rounded(share.value, 4),
                "of_uncompressed_interval_95": _pair(share.interval, 4),
            }
        rows.append(row | {name: _rounded(value, 5) for name, value in figures.items()})
    return rows


def share_rows(table: AccuracyTable, ours: Sequence[str]) -> list[dict[str, Any]]:
    """Bits of ours and of the rivals at shares of the uncompressed accuracy.

    ``saving``: 0.5 where ours needs half of the rival's bits; None, with a ``note``, where one of
    the two curves does not reach the share, or begins above it.
    """
    rows = []
    for share in SHARES:
        rivals = {
            name: bits_at(table, subjects, share)
            for name, subjects in ANCHORS.items()
            if table.present(subjects)
        }
        for name, bits in rivals.items():
            rows.append(_share_row(table, share, name, ANCHORS[name], bits))
        for subject in table.present(ours):
            bits = bits_at(table, [subject], share)
            row = _share_row(table, share, subject, [subject], bits)
            row["savings"] = {
                name: {
                    "saving": _rounded(saved.value, 4),
                    "interval_95": _pair(saved.interval, 4),
                }
                for name, theirs in rivals.items()
                for saved in [Estimate.of(1 - bits / theirs)]
            }
            rows.append(row)
    return rows


def _share_row(
    table: AccuracyTable, share: float, name: str, subjects: Sequence[str], bits: Any
) -> dict[str, Any]:
    estimate = Estimate.of(bits)
    return {
        "share": share,
        "subject": name,
        "bits_per_pixel": _rounded(estimate.value, 5),
        "interval_95": _pair(estimate.interval, 5),
        "note": _why(table, subjects, share) if estimate.value is None else "",
    }


def _why(table: AccuracyTable, subjects: Sequence[str], share: float) -> str:
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


def bd_rows(table: AccuracyTable, ours: Sequence[str]) -> list[dict[str, Any]]:
    """Mean rate differences at equal accuracy over all of ours that a rival reaches."""
    rows = []
    for subject in table.present(ours):
        for name, anchors in ANCHORS.items():
            if not table.present(anchors):
                continue
            estimate, difference = bd_rate(table, subject, anchors)
            rows.append(
                {
                    "subject": subject,
                    "anchor": name,
                    "bd_rate": _rounded(estimate.value, 4),
                    "interval_95": _pair(estimate.interval, 4),
                    "covered": round(difference.covered, 3),
                }
            )
    return rows


def uncompressed_row(table: AccuracyTable) -> dict[str, Any]:
    """The headline figure of uncompressed photos."""
    return {
        "value": _rounded(table.uncompressed[0], 5),
        "interval_95": _pair(interval(table.uncompressed[1:]), 5),
    }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None or not np.isfinite(value) else round(float(value), digits)


def _pair(pair: tuple[float, float] | None, digits: int) -> list[float] | None:
    return None if pair is None else [round(value, digits) for value in pair]
