"""Rate differences with known answers, and how sure they are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluate.curves import (
    RateCurve,
    best_quality,
    interval,
    rate_difference,
    resample,
    weighted_means,
)

RATES = np.array([0.012, 0.03, 0.06, 0.1, 0.16, 0.25])
QUALITIES = np.array([19.0, 22.0, 23.7, 24.6, 25.1, 25.4])


@given(st.floats(0.2, 5), st.floats(0.5, 3), st.floats(-10, 10))
def test_a_curve_that_costs_a_factor_more_is_told_that_factor(
    factor: float, scale: float, offset: float
) -> None:
    qualities = scale * QUALITIES + offset
    ours, anchor = RateCurve(factor * RATES, qualities), RateCurve(RATES, qualities)
    found = rate_difference(ours, [anchor], (factor * 0.02, factor * 0.15))
    assert found.value == pytest.approx(factor - 1, rel=1e-9, abs=1e-9)
    assert found.covered == 1


def test_distances_are_compared_with_their_sign_turned() -> None:
    distances = np.exp(-QUALITIES / 10)
    found = rate_difference(RateCurve(0.5 * RATES, -distances), [RateCurve(RATES, -distances)])
    assert found.value == pytest.approx(-0.5, abs=1e-9)


def test_the_cheaper_of_two_anchors_counts_at_every_value() -> None:
    cheap_low = RateCurve([0.01, 0.02, 0.5], [0.0, 1.0, 2.0])
    cheap_high = RateCurve([0.05, 0.06, 0.1], [0.0, 1.0, 2.0])
    ours = RateCurve([0.02, 0.04, 0.08, 0.15], [0.0, 0.7, 1.4, 2.0])
    both = rate_difference(ours, [cheap_low, cheap_high]).value
    alone = [rate_difference(ours, [anchor]).value for anchor in (cheap_low, cheap_high)]
    assert both is not None
    assert all(value is not None and both > value + 0.02 for value in alone)


def test_curves_without_common_values_give_no_number_but_say_which_way() -> None:
    ours = RateCurve(RATES, QUALITIES)
    worse = rate_difference(ours, [RateCurve([0.1, 0.5], [10.0, 15.0])])
    assert (worse.value, worse.covered, worse.above, worse.below) == (None, 0, 1, 0)
    better = rate_difference(ours, [RateCurve([0.1, 0.5], [30.0, 40.0])])
    assert (better.value, better.below) == (None, 1)
    assert rate_difference(ours, []).value is None
    assert rate_difference(ours, [RateCurve([0.1], [22.0])]).value is None


def test_only_what_both_reach_is_integrated() -> None:
    """Twice the anchor's rate up to 23.7, then half of it: an anchor that ends there sees the 2."""
    factors = np.array([2, 2, 2, 1.3, 0.9, 0.6])
    ours = RateCurve(RATES * factors, QUALITIES)
    whole = rate_difference(ours, [RateCurve(RATES, QUALITIES)], (0.03, 0.25))
    found = rate_difference(ours, [RateCurve(RATES[:3], QUALITIES[:3])], (0.03, 0.25))
    assert found.value == pytest.approx(1, abs=0.05)  # slopes at the last point differ a little
    assert whole.value is not None
    assert whole.value < 0.8
    assert 0.3 < found.covered < 0.8
    assert found.above == pytest.approx(1 - found.covered)


def test_ours_outside_the_rates_is_not_compared() -> None:
    ours = RateCurve([0.6, 0.8], [20.0, 30.0])
    assert rate_difference(ours, [RateCurve([0.1, 0.9], [19.0, 31.0])]).value is None


def test_a_point_that_does_not_pay_is_left_out() -> None:
    honest = RateCurve([0.05, 0.1, 0.2], [20.0, 22.0, 24.0])
    with_bad = RateCurve([0.05, 0.1, 0.15, 0.2, 0.1], [20.0, 22.0, 21.0, 24.0, 21.5])
    grid = np.linspace(20, 24, 9)
    np.testing.assert_allclose(with_bad.log_rate(grid), honest.log_rate(grid))
    assert np.isnan(honest.log_rate(np.array([19.9, 24.1]))).all()


def test_quality_at_a_rate_is_the_best_that_any_curve_has() -> None:
    low, high = RateCurve([0.01, 0.1], [1.0, 2.0]), RateCurve([0.05, 0.2], [1.5, 4.0])
    assert best_quality([low, high], 0.1) == pytest.approx(high.quality(0.1))
    assert best_quality([low, high], 0.02) == pytest.approx(low.quality(0.02))
    assert np.isnan(best_quality([low, high], 0.5))
    saturated = RateCurve([0.01, 0.1, 0.4], [1.0, 2.0, 1.9])
    assert saturated.quality(0.3) == 2
    assert np.isnan(saturated.quality(0.5))


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    held = 0
    for trial in range(200):
        values = rng.normal(5.0, 2.0, (40, 1))
        means = weighted_means(resample(40, 300, seed=trial), values)
        found = interval(means[1:, 0])
        assert found is not None
        held += found[0] <= 5.0 <= found[1]
    assert 0.88 <= held / 200 <= 0.99


def test_row_0_is_the_set_itself_and_missing_values_do_not_count() -> None:
    weights = resample(3, 50)
    assert weights.shape == (51, 3)
    assert (weights.sum(1) == 3).all()
    values = np.array([[1.0, np.nan], [2.0, np.nan], [6.0, 4.0]])
    means = weighted_means(weights, values)
    assert means[0].tolist() == [3.0, 4.0]
    absent = weights[:, 2] == 0
    assert absent.any()
    assert np.isnan(means[absent, 1]).all()


def test_an_interval_of_mostly_unknown_values_is_none() -> None:
    assert interval([1.0] * 50 + [np.nan] * 50) is None
    assert interval([]) is None
