"""Bjontegaard's rate difference, on monotone piecewise cubic curves.

G. Bjontegaard, "Calculation of average PSNR differences between RD-curves", VCEG-M33, 2001, with
the monotone interpolation (Fritsch and Carlson's, ``pchip``) that later common test conditions
use. What is integrated: at equal metric value, the difference of the logarithms of the two rates,
evenly over the metric values that both curves reach; the mean becomes a ratio by exponentiation.
-0.3 means that the first codec needs 30 % fewer bits than its anchor for the same value.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.interpolate import PchipInterpolator

Floats = npt.NDArray[np.float64]

RATES = (0.02, 0.5)
"""Bits per pixel between which the first codec's curve is compared."""
_STEPS = 256
_INVERSION_STEPS = 1024


class RateCurve:
    """log(rate) as a monotone function of quality, through the points that pay.

    A point that costs more than another without being better is left out; fewer than two points
    make an empty curve. Nothing is extrapolated: outside its points a curve is NaN.
    """

    def __init__(self, rates: npt.ArrayLike, qualities: npt.ArrayLike) -> None:
        """rates: bits per pixel, above 0. qualities: higher is better (negate distances)."""
        rate, quality = np.asarray(rates, np.float64), np.asarray(qualities, np.float64)
        known = np.isfinite(rate) & np.isfinite(quality) & (rate > 0)
        order = np.lexsort((-quality[known], rate[known]))
        rate, quality = rate[known][order], quality[known][order]
        best = np.maximum.accumulate(quality) if quality.size else quality
        pays = np.concatenate([[True], best[1:] > best[:-1] + 1e-12])[: quality.size]
        self.qualities, self.log_rates = quality[pays], np.log(rate[pays])
        self._dearest = np.log(rate[-1]) if rate.size else np.nan
        enough = self.qualities.size >= 2
        self._rate_of = (
            PchipInterpolator(self.qualities, self.log_rates, extrapolate=False) if enough else None
        )

    @cached_property
    def _quality_of(self) -> PchipInterpolator | None:
        """The other way round, which most curves of resamples are never asked for."""
        if self._rate_of is None or not (np.diff(self.log_rates) > 0).all():
            return None
        return PchipInterpolator(self.log_rates, self.qualities, extrapolate=False)

    def log_rate(self, qualities: Floats) -> Floats:
        """log(bits per pixel) at these qualities; NaN where the curve does not reach."""
        if self._rate_of is None:
            return np.full(len(qualities), np.nan)
        return np.asarray(self._rate_of(qualities), np.float64)

    def quality(self, rate: float) -> float:
        """Quality at a rate in bits per pixel; NaN where there are no points about it.

        Where dearer points were no better, it stays what it was.
        """
        if self._quality_of is None:
            return float("nan")
        log_rate = np.log(rate)
        if self.log_rates[-1] < log_rate <= self._dearest:
            return float(self.qualities[-1])
        return float(self._quality_of(log_rate))

    def window(self, rates: tuple[float, float]) -> tuple[float, float] | None:
        """The qualities between two rates, as far as the curve reaches; None for none."""
        if self._rate_of is None:
            return None
        qualities = np.linspace(self.qualities[0], self.qualities[-1], _INVERSION_STEPS)
        log_rates = self.log_rate(qualities)
        low, high = np.interp(np.log(rates), log_rates, qualities)
        inside = log_rates[0] < np.log(rates[1]) and log_rates[-1] > np.log(rates[0])
        return (float(low), float(high)) if inside and low < high else None


@dataclass(frozen=True)
class RateDifference:
    """The mean rate difference, and which share of the first codec's qualities it stands for.

    value: None without any overlap. below, above: shares where every anchor's worst point is
    still better, and where every anchor's best point is still worse.
    """

    value: float | None
    covered: float
    below: float
    above: float


def rate_difference(
    curve: RateCurve, anchors: Sequence[RateCurve], rates: tuple[float, float] = RATES
) -> RateDifference:
    """The curve between two rates against the anchors' lower envelope.

    The anchor's rate at a quality is the lowest of those anchors that reach it: an encoder that
    may choose (full size or reduced first) would choose that one.
    """
    window = curve.window(rates)
    reaching = [anchor for anchor in anchors if anchor.qualities.size >= 2]
    if window is None or not reaching:
        return RateDifference(None, 0.0, 0.0, 0.0)
    edges = np.linspace(*window, _STEPS + 1)
    middles = (edges[1:] + edges[:-1]) / 2
    envelope = np.fmin.reduce([anchor.log_rate(middles) for anchor in reaching])
    covered = np.isfinite(envelope)
    below = middles < min(anchor.qualities[0] for anchor in reaching)
    above = middles > max(anchor.qualities[-1] for anchor in reaching)
    value = None
    if covered.any():
        difference = curve.log_rate(middles)[covered] - envelope[covered]
        value = float(np.expm1(difference.mean()))
    return RateDifference(value, float(covered.mean()), float(below.mean()), float(above.mean()))


def best_quality(curves: Sequence[RateCurve], rate: float) -> float:
    """The best quality that any of the curves has at a rate; NaN where none reaches."""
    values = [value for value in (curve.quality(rate) for curve in curves) if np.isfinite(value)]
    return max(values) if values else float("nan")


LEVEL = 0.95


def resample(photos: int, resamples: int, seed: int = 0) -> Floats:
    """How often each photo is drawn: float64 [1 + resamples, photos]; row 0 is all of them once."""
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(photos, np.full(photos, 1 / photos), size=resamples)
    return np.concatenate([np.ones((1, photos)), drawn.astype(np.float64)])


def weighted_means(weights: Floats, values: Floats) -> Floats:
    """[n, photos] and [photos, points] -> [n, points]; NaN values do not count.

    NaN where no photo that was drawn has a value.
    """
    known = np.isfinite(values)
    total = weights @ np.where(known, values, 0.0)
    count = weights @ known.astype(np.float64)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)


def interval(values: npt.ArrayLike) -> tuple[float, float] | None:
    """The central 95 % of resampled values; None when more than a twentieth of them are NaN."""
    array = np.asarray(values, np.float64)
    known = array[np.isfinite(array)]
    if array.size == 0 or known.size < 0.95 * array.size:
        return None
    low, high = np.quantile(known, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
