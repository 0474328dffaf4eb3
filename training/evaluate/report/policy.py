"""Refining on uncertainty, offline: few bits first, more only for photos that leave a doubt.

A photo leaves a doubt when a detection of its coarse operating point scores within a band. What is
refined costs the finer point's bits, and the coarser ones too unless the finer stream is an
extension of the coarser: layers of one chain. Beside it stands what needs no policy: every photo
at one operating point between, at as many bits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt

from training.evaluate.curves import Floats, RateCurve
from training.evaluate.judges.kinds import SetJudge
from training.evaluate.measure import Column, Key
from training.evaluate.report.tables import divided

Band = tuple[float, float]
LOWS = (0.3, 0.4, 0.45, 0.48, 0.49)
HIGHS = (0.5, 0.52, 0.55, 0.6, 0.7)
BANDS: tuple[Band, ...] = tuple(product(LOWS, HIGHS))
"""Around 0.5, from which detections count: nearly every photo has a weaker one somewhere."""
KEPT = 0.99
"""The share of the finest point's accuracy that a chosen band must keep."""


@dataclass(frozen=True)
class Refinement:
    """A coarse point, and a finer one; extends: the finer stream contains the coarser."""

    coarse: Key
    fine: Key
    extends: bool


@dataclass(frozen=True)
class Outcome:
    """A refinement with a band, for every weighting of the photos: float64 [n] each.

    refined: share of photos; bits: per pixel; of_finest: accuracy over always sending the finer
    point; saved: share of its bits that were not sent; plain: the coarse subject's own curve at
    these bits, over the same accuracy, NaN where it has no points about them.
    """

    refinement: Refinement
    band: Band
    refined: Floats
    bits: Floats
    accuracy: Floats
    of_finest: Floats
    saved: Floats
    plain: Floats

    def to_dict(self, row: int) -> dict[str, Any]:
        """JSON-ready, for one weighting."""
        return {
            "coarse": list(self.refinement.coarse),
            "fine": list(self.refinement.fine),
            "band": list(self.band),
            "refined": round(float(self.refined[row]), 4),
            "bits_per_pixel": round(float(self.bits[row]), 5),
            "accuracy": _known(self.accuracy[row]),
            "of_finest": _known(self.of_finest[row]),
            "plain_of_finest": _known(self.plain[row]),
            "bits_saved": round(float(self.saved[row]), 4),
        }


def doubtful(outputs: Sequence[npt.ArrayLike], band: Band) -> npt.NDArray[np.bool_]:
    """Which photos have a detection scored within the band, ends included: bool [photos]."""
    low, high = band
    scores = [np.asarray(rows, np.float64).reshape(-1, 6)[:, 1] for rows in outputs]
    return np.array([bool(((low <= s) & (s <= high)).any()) for s in scores])


def outcomes(
    columns: Mapping[Key, Column],
    refinements: Sequence[Refinement],
    judge: SetJudge,
    weights: Floats,
    bands: Sequence[Band] = BANDS,
) -> list[Outcome]:
    """Every refinement with every band. weights: [n, photos]."""
    found = []
    total = weights.sum(1)
    used = {one.coarse[0] for one in refinements} | {one.fine[0] for one in refinements}
    matched = {
        key: judge.matched(column.outputs) for key, column in columns.items() if key[0] in used
    }
    accuracies = {key: judge.resampled(of_key, weights) for key, of_key in matched.items()}
    plain = {name: _curves(columns, accuracies, name, weights) for name in used}
    for refinement in refinements:
        coarse, fine = columns[refinement.coarse], columns[refinement.fine]
        more = fine.rates - coarse.rates if refinement.extends else fine.rates
        for band in bands:
            refine = doubtful(coarse.outputs, band)
            pairs = zip(refine, matched[refinement.coarse], matched[refinement.fine], strict=True)
            accuracy = judge.resampled([b if again else a for again, a, b in pairs], weights)
            bits = weights @ (coarse.rates + refine * more) / total
            found.append(
                Outcome(
                    refinement,
                    band,
                    weights @ refine / total,
                    bits,
                    accuracy,
                    divided(accuracy, accuracies[refinement.fine]),
                    1 - bits / (weights @ fine.rates / total),
                    divided(_at(plain[refinement.coarse[0]], bits), accuracies[refinement.fine]),
                )
            )
    return found


def _curves(
    columns: Mapping[Key, Column],
    accuracies: Mapping[Key, Floats],
    subject: str,
    weights: Floats,
) -> list[RateCurve]:
    """The subject's own curve, one for every weighting."""
    mine = [key for key in accuracies if key[0] == subject]
    values = np.stack([accuracies[key] for key in mine], 1)
    rates = np.stack([weights @ columns[key].rates / weights.sum(1) for key in mine], 1)
    return [RateCurve(rate, value) for rate, value in zip(rates, values, strict=True)]


def cheapest(found: Sequence[Outcome], row: int, kept: float = KEPT) -> Outcome | None:
    """The outcome of fewest bits that keeps so much of the finest's accuracy, by one weighting."""
    keeping = [one for one in found if one.of_finest[row] >= kept]
    return min(keeping, key=lambda one: float(one.bits[row]), default=None)


def _at(curves: Sequence[RateCurve], rates: Floats) -> Floats:
    """Every curve at its rate; NaN where it has no points about it."""
    return np.array([curve.quality(rate) for curve, rate in zip(curves, rates, strict=True)])


def refining(
    columns: Mapping[Key, Column],
    refinements: Sequence[Refinement],
    judge: SetJudge,
    photos: int,
) -> dict[str, Any]:
    """The grid over all photos, and choices made on one half and reported on the other.

    ``grid`` and ``best_of_grid`` are of the photos that they are reported on: flattering.
    ``halves`` are not: every other photo chooses, the rest report, both ways.
    """
    if not refinements:
        return {"grid": [], "best_of_grid": None, "halves": []}
    even = (np.arange(photos) % 2 == 0).astype(np.float64)
    weights = np.stack([np.ones(photos), even, 1 - even][: 3 if photos > 1 else 1])
    found = outcomes(columns, refinements, judge, weights)
    best = cheapest(found, 0)
    halves = []
    for chosen_on, reported_on in ((1, 2), (2, 1)) if photos > 1 else ():
        chosen = cheapest(found, chosen_on)
        halves.append(None if chosen is None else chosen.to_dict(reported_on))
    return {
        "kept": KEPT,
        "grid": [one.to_dict(0) for one in found],
        "best_of_grid": None if best is None else best.to_dict(0),
        "halves": halves,
    }


def _known(value: float) -> float | None:
    return round(float(value), 4) if np.isfinite(value) else None
