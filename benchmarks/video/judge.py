"""How far findings on what was sent agree with the network's own on the frames themselves.

The pseudo truth is what the uncut network finds in uncompressed frames with at least a floor's
score. COCO's average precision of what was found at an operating point against it, by groups of
classes. Within a group classes count by their objects: one that the network saw once, by mistake,
does not weigh as much as one that is in every frame.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from training.evaluate.curves import Floats
from training.evaluate.judges.average_precision import (
    ALL_THRESHOLDS,
    AT_50,
    AveragePrecision,
    Detections,
    match_photos,
)
from training.evaluate.photos import Truth

PERSON = (1,)
VEHICLES = (2, 3, 4, 6, 7, 8)
"""COCO's bicycle, car, motorcycle, bus, train, truck."""
GROUPS: Mapping[str, tuple[int, ...] | None] = {
    "person": PERSON,
    "vehicles": VEHICLES,
    "person+vehicles": PERSON + VEHICLES,
    "all": None,
}
FLOORS = (0.3, 0.4, 0.5)
FLOOR = 0.4
"""The floor that pages show, and of which intervals are made; documents have all."""
MEASURES = {"ap": ALL_THRESHOLDS, "ap50": AT_50}
LEAST_OBJECTS = 10
"""Of a group in all judged frames together: of fewer nothing is said."""

RESAMPLED, RESAMPLES = "ap", 200
"""Which measure has resamples, at FLOOR, and how many."""
_BLOCK = 5
"""Judged frames that are drawn together: neighbours show the same things."""

Key = tuple[float, str, str]
"""A floor, a group of classes, ``ap`` or ``ap50``."""


@dataclass(frozen=True)
class Precision:
    """value: 0 to 1. objects: of the pseudo truth, in all judged frames together.

    rows: the value, and that of every resample of the frames where there are any: [1 + n].
    """

    value: float
    objects: int
    rows: Floats = field(compare=False, repr=False)


def resampled_frames(frames: int, resamples: int = RESAMPLES, seed: int = 0) -> Floats:
    """How often each of the judged frames is drawn, in blocks: [1 + resamples, frames].

    Row 0 is all of them once. The circular block bootstrap: D. Politis, J. Romano, "A circular
    block-resampling procedure for stationary data", 1992.
    """
    rng, block = np.random.default_rng(seed), min(_BLOCK, frames)
    blocks = -(-frames // block)
    starts = rng.integers(0, frames, (resamples, blocks, 1))
    drawn = ((starts + np.arange(block)) % frames).reshape(resamples, -1)[:, :frames]
    counts = np.stack([np.bincount(row, minlength=frames) for row in drawn])
    return np.concatenate([np.ones((1, frames)), counts.astype(np.float64)])


class PseudoTruth:
    """What the uncut network found in the judged frames of a clip, as something to be found."""

    def __init__(self, found: Sequence[Detections]) -> None:
        """found: a list of rows [category, score, x, y, width, height] a judged frame."""
        self._truths = {
            floor: [
                tuple(
                    Truth(int(row[0]), (row[2], row[3], row[4], row[5]), False)
                    for row in rows
                    if row[1] >= floor
                )
                for rows in found
            ]
            for floor in FLOORS
        }
        self._weights = resampled_frames(len(found))

    def objects(self, floor: float) -> int:
        """Of all classes, in all frames together."""
        return sum(map(len, self._truths[floor]))

    def judge(self, found: Sequence[Detections]) -> dict[Key, Precision]:
        """What findings of the same frames are worth; groups with too few objects are left out."""
        return {
            (floor, group, measure): precision
            for floor in FLOORS
            for (group, measure), precision in self._at(floor, found).items()
        }

    def _at(self, floor: float, found: Sequence[Detections]) -> dict[tuple[str, str], Precision]:
        truths = self._truths[floor]
        kinds = sorted({one.category for rows in truths for one in rows})
        if not kinds:
            return {}
        precision = AveragePrecision(match_photos(truths, found))
        figures: dict[tuple[str, str], Precision] = {}
        for measure, thresholds in MEASURES.items():
            resampled = floor == FLOOR and measure == RESAMPLED
            weights = self._weights if resampled else self._weights[:1]
            values, objects = precision.by_category(weights, thresholds)
            for group, classes in GROUPS.items():
                inside = np.array([classes is None or kind in classes for kind in kinds])
                count = objects[inside].sum(0)
                if count.size and count[0] >= LEAST_OBJECTS:
                    total = (values * objects)[inside].sum(0)
                    nothing = np.full(len(weights), np.nan)
                    rows = np.divide(total, count, out=nothing, where=count > 0)
                    figures[group, measure] = Precision(float(rows[0]), round(count[0]), rows)
        return figures
