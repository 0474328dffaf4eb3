"""How far a task agrees with itself on two versions of a picture: the original and a coarser one.

Classes of the whole picture agree when the best is the same. Regions are matched by class alone,
and their mean IoU is over all classes that either has, as is usual for semantic segmentation.

Objects are matched one to one, best overlap first; what overlaps less than half, or is of another
class, does not match. ``f1 = 2 * matched / (reference + candidate)``, and 1 when both found
nothing. The reference is no ground truth: this measures what the coding changed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from shared.errors import TaskError
from shared.results.rle import mask_iou
from shared.results.types import (
    Box,
    Classification,
    Detection,
    Face,
    Instance,
    Region,
    TaskResult,
)

MATCH_IOU = 0.5
# Outer corners of the right and the left eye in the 468-point face mesh.
_RIGHT_EYE, _LEFT_EYE = 33, 263

_Found = TypeVar("_Found", Detection, Instance, Face)
_OfClass = TypeVar("_OfClass", Classification, Region)
_Share = Annotated[float, Field(ge=0, le=1)]


class Agreement(BaseModel):
    """``mean_iou`` is over matched objects (of masks for instances, of boxes otherwise) and None
    without a match; for regions over all classes, 0 for one that only one of both has; None for
    classes. ``normalised_mean_error`` is only for faces: the mean distance (x, y) of
    corresponding landmarks over the reference's distance between the outer eye corners.
    ``same_best`` is only for classes: whether both name the same class first (top-1); their
    matches are classes that both name.
    """

    model_config = ConfigDict(frozen=True)

    task: str
    reference_count: int
    candidate_count: int
    matched: int
    f1: _Share
    mean_iou: _Share | None
    normalised_mean_error: float | None = None
    same_best: bool | None = None


def agreement(reference: TaskResult, candidate: TaskResult) -> Agreement:
    """Compare two results of one task on the same picture size.

    Raises TaskError(``not_comparable``) for different tasks or outputs, ``bad_mask`` for masks
    that are damaged or differ in size.
    """
    if reference.task != candidate.task:
        raise TaskError("not_comparable", f"{reference.task} against {candidate.task}")
    if reference.detections is not None and candidate.detections is not None:
        pairs = _match(reference.detections, candidate.detections, _same_class_box_iou)
    elif reference.instances is not None and candidate.instances is not None:
        pairs = _match(reference.instances, candidate.instances, _same_class_mask_iou)
    elif reference.faces is not None and candidate.faces is not None:
        pairs = _match(reference.faces, candidate.faces, lambda a, b: box_iou(a.box, b.box))
    elif reference.classes is not None and candidate.classes is not None:
        pairs = _by_class(reference.classes, candidate.classes, lambda a, b: 1.0)
    elif reference.regions is not None and candidate.regions is not None:
        pairs = _by_class(
            reference.regions, candidate.regions, lambda a, b: mask_iou(a.mask, b.mask)
        )
    else:
        raise TaskError("not_comparable", f"two {reference.task} results of different kinds")
    total = len(reference.found) + len(candidate.found)
    return Agreement(
        task=reference.task,
        reference_count=len(reference.found),
        candidate_count=len(candidate.found),
        matched=len(pairs),
        f1=2 * len(pairs) / total if total else 1.0,
        mean_iou=_mean_iou(reference, candidate, pairs),
        normalised_mean_error=_landmark_error(reference, candidate, pairs),
        same_best=_same_best(reference, candidate),
    )


def box_iou(first: Box, second: Box) -> float:
    """Intersection over union of two boxes, 0..1; 0 when both are empty."""
    width = min(first.x_max, second.x_max) - max(first.x_min, second.x_min)
    height = min(first.y_max, second.y_max) - max(first.y_min, second.y_min)
    if width <= 0 or height <= 0:
        return 0.0
    intersection = width * height
    return min(1.0, intersection / (first.area + second.area - intersection))


def _same_class_box_iou(first: Detection, second: Detection) -> float:
    return box_iou(first.box, second.box) if first.class_name == second.class_name else 0.0


def _same_class_mask_iou(first: Instance, second: Instance) -> float:
    return mask_iou(first.mask, second.mask) if first.class_name == second.class_name else 0.0


def _match(
    reference: Sequence[_Found],
    candidate: Sequence[_Found],
    overlap: Callable[[_Found, _Found], float],
) -> list[tuple[int, int, float]]:
    """(index in reference, index in candidate, overlap) of the matches, best first."""
    scored = [
        (overlap(a, b), i, j) for i, a in enumerate(reference) for j, b in enumerate(candidate)
    ]
    scored.sort(key=lambda item: (-item[0], item[1], item[2]))
    taken_i: set[int] = set()
    taken_j: set[int] = set()
    pairs: list[tuple[int, int, float]] = []
    for iou, i, j in scored:
        if iou < MATCH_IOU:
            break
        if i not in taken_i and j not in taken_j:
            taken_i.add(i)
            taken_j.add(j)
            pairs.append((i, j, iou))
    return pairs


def _by_class(
    reference: Sequence[_OfClass],
    candidate: Sequence[_OfClass],
    overlap: Callable[[_OfClass, _OfClass], float],
) -> list[tuple[int, int, float]]:
    """As :func:`_match`, of what has the same class, however little it overlaps."""
    rows = {item.class_id: j for j, item in enumerate(candidate)}
    return [
        (i, rows[item.class_id], overlap(item, candidate[rows[item.class_id]]))
        for i, item in enumerate(reference)
        if item.class_id in rows
    ]


def _mean_iou(
    reference: TaskResult, candidate: TaskResult, pairs: list[tuple[int, int, float]]
) -> float | None:
    if reference.classes is not None:
        return None
    count = len(pairs)
    if reference.regions is not None:
        count = len(reference.found) + len(candidate.found) - len(pairs)
    return sum(iou for _, _, iou in pairs) / count if count else None


def _same_best(reference: TaskResult, candidate: TaskResult) -> bool | None:
    if reference.classes is None or candidate.classes is None:
        return None
    best = [
        [item.class_id for item in result[:1]] for result in (reference.classes, candidate.classes)
    ]
    return best[0] == best[1]


def _landmark_error(
    reference: TaskResult, candidate: TaskResult, pairs: list[tuple[int, int, float]]
) -> float | None:
    if reference.faces is None or candidate.faces is None:
        return None
    errors: list[float] = []
    for i, j, _ in pairs:
        expected = np.array(reference.faces[i].landmarks, dtype=np.float64)
        given = np.array(candidate.faces[j].landmarks, dtype=np.float64)
        if expected.shape != given.shape or len(expected) <= _LEFT_EYE:
            continue
        eyes = float(np.linalg.norm(expected[_RIGHT_EYE, :2] - expected[_LEFT_EYE, :2]))
        if eyes > 0:
            distances = np.linalg.norm(expected[:, :2] - given[:, :2], axis=1)
            errors.append(float(distances.mean()) / eyes)
    return float(np.mean(errors)) if errors else None
