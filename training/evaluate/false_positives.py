"""False positives: boxes of what is not there.

Two counts. *Misplaced* is COCO's: no object of the box's class overlaps it enough, so that a box
too large, or a second one around the same object, counts too. *Absent* is what people mean by
seeing things: nothing of the class is anywhere in the photo.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from training.evaluate.photos import Truth

Rows = Sequence[Sequence[float]]
"""[class id, score, x, y, width, height] each, as ``judges.kinds.rows`` makes them."""

LEAST_IOU: Final = 0.5
"""As COCO's AP50 has it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A box that was found. misplaced: there is no object of its class in its place; absent: nor
    anywhere else in the photo."""

    class_id: int
    score: float
    misplaced: bool
    absent: bool


def judged(rows: Rows, truths: Sequence[Truth]) -> list[Finding]:
    """Findings of one photo, best first; each object is found once.

    A box that lies in a crowd of its class by half is not misplaced.
    """
    objects = [truth for truth in truths if not truth.crowd]
    crowds = [truth for truth in truths if truth.crowd]
    present = {truth.category for truth in truths}
    taken: set[int] = set()
    found = []
    for row in sorted(rows, key=lambda row: -row[1]):
        kind, score, box = int(row[0]), float(row[1]), row[2:6]
        overlaps = [
            (_iou(box, truth.box), number)
            for number, truth in enumerate(objects)
            if truth.category == kind and number not in taken
        ]
        overlap, number = max(overlaps, default=(0.0, -1))
        misplaced = overlap < LEAST_IOU
        if not misplaced:
            taken.add(number)
        elif any(_inside(box, one.box) >= LEAST_IOU for one in crowds if one.category == kind):
            misplaced = False
        found.append(Finding(kind, score, misplaced, kind not in present))
    return found


def as_truths(rows: Rows, least: float) -> tuple[Truth, ...]:
    """What the network shows of the uncompressed photo, in the place of annotations."""
    return tuple(
        Truth(int(row[0]), (row[2], row[3], row[4], row[5]), crowd=False)
        for row in rows
        if row[1] >= least
    )


def mirrored(rows: Rows, width: int) -> list[list[float]]:
    """Findings on a mirrored photo, in the photo as it is. width: in pixels."""
    return [[row[0], row[1], round(width - row[2] - row[4], 2), *row[3:6]] for row in rows]


Least = Callable[[int], float]
"""The least score that is shown, by class id."""


def counts(photos: Sequence[tuple[Rows, Sequence[Truth]]], least: Least) -> dict[str, float | None]:
    """Of what is shown, a photo each: findings, misplaced and absent ones; and the share of objects
    that are found, 0..1, None without any.

    photos: what was found on each, and what is there.
    """
    shown = [
        [one for one in judged(rows, truths) if one.score >= least(one.class_id)]
        for rows, truths in photos
    ]
    every = [one for found in shown for one in found]
    there = sum(not truth.crowd for _, truths in photos for truth in truths)
    right = sum(not one.misplaced for one in every)
    return {
        "found": len(every) / len(photos),
        "misplaced": (len(every) - right) / len(photos),
        "absent": sum(one.absent for one in every) / len(photos),
        "recall": min(1.0, right / there) if there else None,
    }


def _common(a: Sequence[float], b: Sequence[float]) -> float:
    """Square pixels of both, boxes as x, y, width, height."""
    across = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
    down = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
    return max(0.0, across) * max(0.0, down)


def _iou(a: Sequence[float], b: Sequence[float]) -> float:
    common = _common(a, b)
    union = a[2] * a[3] + b[2] * b[3] - common
    return common / union if union > 0 else 0.0


def _inside(box: Sequence[float], crowd: Sequence[float]) -> float:
    """The share of the box that lies in the crowd."""
    area = box[2] * box[3]
    return _common(box, crowd) / area if area > 0 else 0.0
