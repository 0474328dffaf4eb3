"""Refining on uncertainty, and comparisons at equal accuracy, on curves by hand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from training.evaluate.curves import Floats
from training.evaluate.judges.kinds import Boxes, Output
from training.evaluate.measure import Column, Measurements
from training.evaluate.photos import EvaluationPhoto
from training.evaluate.report.comparison import bd_rate, bits_at, share_rows
from training.evaluate.report.policy import (
    Refinement,
    cheapest,
    doubtful,
    outcomes,
    refining,
)
from training.evaluate.report.tables import Table, task_table

PHOTOS = 8
NOTHING = np.zeros((0, 0, 3), np.uint8)


class ShareRight:
    """An output is right when its first row is of category 1."""

    def figures(self, outputs: Sequence[Output]) -> dict[str, float | None]:
        return {"right": float(self.resampled(outputs, np.ones((1, len(outputs))))[0])}

    def matched(self, outputs: Sequence[Output]) -> list[Output]:
        return list(outputs)

    def resampled(self, outputs: Sequence[Output], weights: Floats) -> Floats:
        right = np.array([float(len(rows) and rows[0][0] == 1) for rows in outputs])
        return weights @ right / weights.sum(1)


def column(rate: float, rows: list[list[list[float]]]) -> Column:
    return Column([1] * len(rows), [rate] * len(rows), [{"output": one} for one in rows])


def scored(category: int, score: float) -> list[list[float]]:
    return [[category, score, 0, 0, 9, 9]]


# Every other pair of photos is wrong at the coarse point, and there the score is doubtful.
COARSE = [scored(0, 0.35) if n // 2 % 2 else scored(1, 0.9) for n in range(PHOTOS)]
FINE = [scored(1, 0.9)] * PHOTOS
COLUMNS = {("t", 1): column(0.02, COARSE), ("t", 0): column(0.1, FINE)}


def test_doubt_is_a_score_within_the_band() -> None:
    outputs = [scored(1, 0.3), scored(1, 0.31), [], np.zeros((0, 6)), scored(1, 0.4)]
    assert doubtful(outputs, (0.3, 0.4)).tolist() == [True, True, False, False, True]
    assert doubtful(outputs, (0.305, 0.35)).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize(("extends", "bits"), [(True, 0.06), (False, 0.07)])
def test_what_is_refined_costs_the_finer_bits(extends: bool, bits: float) -> None:
    refinement = Refinement(("t", 1), ("t", 0), extends)
    weights = np.ones((1, PHOTOS))
    right, never = outcomes(
        COLUMNS, [refinement], ShareRight(), weights, bands=((0.3, 0.4), (0.5, 0.6))
    )
    assert (right.refined[0], right.of_finest[0]) == (0.5, 1)
    assert right.bits[0] == pytest.approx(bits)
    assert right.saved[0] == pytest.approx(1 - bits / 0.1)
    assert (never.refined[0], never.of_finest[0], never.bits[0]) == (0, 0.5, 0.02)
    # Every photo at 0.06 bits, between the two points, would be right in about four of five.
    assert never.plain[0] == pytest.approx(0.5)
    assert 0.75 < right.plain[0] < 0.95
    assert cheapest([right, never], 0) is right
    assert cheapest([never], 0) is None


def test_halves_choose_and_report_apart() -> None:
    columns = {**COLUMNS}
    # On odd photos no band helps: the coarse point is sure, and wrong.
    coarse = [scored(0, 0.95) if n % 2 else rows for n, rows in enumerate(COARSE)]
    columns["t", 1] = column(0.02, coarse)
    found = refining(columns, [Refinement(("t", 1), ("t", 0), True)], ShareRight(), PHOTOS)
    even, odd = found["halves"]
    assert (even["refined"], even["of_finest"]) == (0, 0)  # chosen on even, reported on odd
    assert odd is None
    assert found["best_of_grid"] is None
    assert refining({}, [], ShareRight(), 0)["grid"] == []


def table_of(rates: dict[str, list[float]], right: dict[str, list[int]]) -> Table:
    """right: of ten photos, how many every point gets right."""
    points = Measurements([EvaluationPhoto(str(n), NOTHING) for n in range(10)])
    whole = [scored(1, 0.9)] * 10
    points.columns["uncompressed", 24] = column(24, whole)
    for name, of_rates in rates.items():
        for knob, (rate, count) in enumerate(zip(of_rates, right[name], strict=True)):
            rows = [scored(1, 0.9)] * count + [scored(0, 0.9)] * (10 - count)
            points.columns[name, knob] = column(rate, rows)
    return task_table(points, Boxes(), ShareRight(), resamples=50)


def test_bits_at_a_share_are_of_the_best_rival_and_ours_halves_them() -> None:
    rates = {"avif": [0.2, 0.4, 0.8], "avif-input": [0.1, 0.3], "ours": [0.05, 0.1, 0.2, 0.4]}
    right = {"avif": [5, 8, 10], "avif-input": [5, 8], "ours": [5, 6, 8, 10]}
    table = table_of(rates, right)
    assert table.uncompressed[0] == 1
    assert bits_at(table, ["avif", "avif-input"], 0.8)[0] == pytest.approx(0.3)
    assert bits_at(table, ["avif", "avif-input"], 1)[0] == pytest.approx(0.8)
    assert np.isnan(bits_at(table, ["avif-input"], 0.97)[0])
    rows = {(row["share"], row["subject"]): row for row in share_rows(table, ["ours"])}
    ours, avif = rows[0.9, "ours"], rows[0.9, "AVIF, best of its sizes"]
    saved = ours["savings"]["AVIF, best of its sizes"]["saving"]
    assert saved == pytest.approx(1 - ours["bits_per_pixel"] / avif["bits_per_pixel"], abs=1e-3)
    alone = rows[0.97, "AVIF at the network's input size"]
    assert (alone["bits_per_pixel"], alone["note"]) == (None, "its best is 80.0%")


def test_half_the_bits_at_every_accuracy_is_a_bd_rate_of_minus_a_half() -> None:
    rates = {"avif": [0.1, 0.2, 0.4], "ours": [0.05, 0.1, 0.2]}
    table = table_of(rates, {"avif": [5, 7, 9], "ours": [5, 7, 9]})
    estimate, difference = bd_rate(table, "ours", ["avif"])
    assert estimate.value == pytest.approx(-0.5, abs=1e-6)
    assert difference.covered == 1


def test_a_curve_that_begins_above_a_share_says_so() -> None:
    table = table_of({"ours": [0.05, 0.1]}, {"ours": [9, 10]})
    (row, _) = share_rows(table, ["ours"])
    assert row["bits_per_pixel"] == pytest.approx(0.05)
    table = table_of({"ours": [0.05, 0.1]}, {"ours": [10, 10]})
    (row, _) = share_rows(table, ["ours"])
    assert row["note"].startswith("its coarsest, 0.0500 bits per pixel, is better")
