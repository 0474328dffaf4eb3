"""How many of what is in a picture: what several tasks have found of one object is one object.

Detection and segmentation both find a person; that is one person. Findings of different tasks are
of one object when they have its class and their boxes agree: they overlap by ``SAME_IOU``, or the
smaller lies in the larger by ``SAME_INSIDE`` (one task saw a part of it). They are matched one to
one, best overlap first, so that two people side by side stay two. What one task has found several
times it means to be several objects. Works on values and on messages (``types.proto``) alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

SAME_IOU = 0.4
SAME_INSIDE = 0.85
FACE = "face"


class Corners(Protocol):
    """A box, in pixels."""

    @property
    def x_min(self) -> float: ...
    @property
    def y_min(self) -> float: ...
    @property
    def x_max(self) -> float: ...
    @property
    def y_max(self) -> float: ...


class Findings(Protocol):
    """A ``TaskResult``, or its message."""

    @property
    def task(self) -> str: ...
    @property
    def detections(self) -> Iterable[Any] | None: ...
    @property
    def instances(self) -> Iterable[Any] | None: ...
    @property
    def faces(self) -> Iterable[Any] | None: ...


@dataclass(slots=True)
class Thing:
    """One object: its class (``face``, with no id, for faces), the box and the score (0..1) of the
    finding that is surest, and the tasks that have found it."""

    class_name: str
    class_id: int | None
    score: float
    box: Corners
    tasks: tuple[str, ...]


def things(results: Iterable[Findings]) -> list[Thing]:
    """Every object once, in the order in which tasks and their findings have them."""
    known: list[Thing] = []
    for result in results:
        here = list(_boxed(result))
        same = _matches(known, here)
        for number, one in enumerate(here):
            before = same.get(number)
            if before is None:
                known.append(one)
                continue
            before.tasks += one.tasks
            if one.score > before.score:
                before.score, before.box = one.score, one.box
    return known


def counts_of(results: Iterable[Findings]) -> dict[str, int]:
    """How many objects of each class there are, faces as ``face``; the most frequent first."""
    return dict(Counter(one.class_name for one in things(results)).most_common())


def _boxed(result: Findings) -> Iterator[Thing]:
    for one in (*(result.detections or ()), *(result.instances or ())):
        yield Thing(one.class_name, one.class_id, one.score, one.box, (result.task,))
    for face in result.faces or ():
        yield Thing(FACE, None, face.score, face.box, (result.task,))


def _matches(known: list[Thing], here: list[Thing]) -> dict[int, Thing]:
    """Which of ``known`` those ``here`` are, by their number."""
    pairs = [
        (overlap, at, number)
        for number, one in enumerate(here)
        for at, other in enumerate(known)
        if one.class_name == other.class_name and (overlap := _overlap(one.box, other.box)) > 0
    ]
    pairs.sort(key=lambda pair: -pair[0])
    found: dict[int, Thing] = {}
    taken: set[int] = set()
    for _, at, number in pairs:
        if at not in taken and number not in found:
            taken.add(at)
            found[number] = known[at]
    return found


def _overlap(first: Corners, second: Corners) -> float:
    """Intersection over union, 0..1; 0 for boxes that are not of one object."""
    width = min(first.x_max, second.x_max) - max(first.x_min, second.x_min)
    height = min(first.y_max, second.y_max) - max(first.y_min, second.y_min)
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    areas = [(one.x_max - one.x_min) * (one.y_max - one.y_min) for one in (first, second)]
    iou = shared / (sum(areas) - shared)
    return iou if iou >= SAME_IOU or shared >= SAME_INSIDE * min(areas) else 0.0
