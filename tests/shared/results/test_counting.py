"""What several tasks have found of one object is one object."""

from __future__ import annotations

from typing import Any

import pytest

from shared.results import (
    Box,
    Detection,
    Face,
    Instance,
    ModelInfo,
    RleMask,
    TaskResult,
    counts_of,
    summarise,
    things,
)
from shared.wire.results import task_to_message

MODEL = [ModelInfo(name="m", version="1", licence="l")]
MASK = RleMask(size=(48, 64), counts="0`2P1")


def box(left: float, top: float, right: float, bottom: float) -> Box:
    return Box(x_min=left, y_min=top, x_max=right, y_max=bottom)


def detected(*found: tuple[str, Box], score: float = 0.9) -> TaskResult:
    items = [Detection(box=at, class_id=1, class_name=name, score=score) for name, at in found]
    return TaskResult(task="detection", model=MODEL, detections=items)


def segmented(*found: tuple[str, Box], score: float = 0.6) -> TaskResult:
    items = [
        Instance(box=at, class_id=1, class_name=name, score=score, mask=MASK) for name, at in found
    ]
    return TaskResult(task="segmentation", model=MODEL, instances=items)


def faces(*found: Box) -> TaskResult:
    return TaskResult(task="landmarks", model=MODEL, faces=[Face(box=at, score=1) for at in found])


LEFT, RIGHT = box(0, 0, 10, 20), box(12, 0, 22, 20)
ALMOST_LEFT = box(1, 1, 10, 20)
UPPER_LEFT = box(1, 0, 9, 7)


@pytest.mark.parametrize(
    ("results", "counts"),
    [
        ([detected(("person", LEFT)), segmented(("person", ALMOST_LEFT))], {"person": 1}),
        ([detected(("person", LEFT)), segmented(("person", UPPER_LEFT))], {"person": 1}),
        ([detected(("person", LEFT)), segmented(("person", RIGHT))], {"person": 2}),
        ([detected(("person", LEFT)), segmented(("cat", LEFT))], {"person": 1, "cat": 1}),
        # Each task saw one of two who overlap, and the other saw both.
        (
            [
                detected(("person", LEFT), ("person", box(4, 0, 14, 20))),
                segmented(("person", box(4, 1, 14, 20)), ("person", ALMOST_LEFT)),
            ],
            {"person": 2},
        ),
        # What one task says twice it means twice.
        ([detected(("person", LEFT), ("person", LEFT))], {"person": 2}),
        (
            [detected(("person", LEFT), ("person", LEFT)), segmented(("person", LEFT))],
            {"person": 2},
        ),
        (
            [detected(("person", LEFT)), segmented(("person", LEFT)), faces(UPPER_LEFT)],
            {"person": 1, "face": 1},
        ),
        ([detected(("cup", box(3, 3, 3, 9))), segmented(("cup", box(3, 3, 3, 9)))], {"cup": 2}),
        ([], {}),
    ],
)
def test_objects_are_counted_once(results: list[TaskResult], counts: dict[str, int]) -> None:
    assert counts_of(results) == counts
    assert counts_of([task_to_message(one) for one in results]) == counts


def test_the_surest_finding_stands_for_the_object() -> None:
    (one,) = things([segmented(("person", ALMOST_LEFT)), detected(("person", LEFT))])
    assert (one.score, one.box, one.tasks) == (0.9, LEFT, ("segmentation", "detection"))


@pytest.mark.parametrize(
    ("results", "words"),
    [
        (
            [detected(("person", LEFT)), segmented(("person", LEFT)), faces(UPPER_LEFT)],
            "1 person; 1 face",
        ),
        ([segmented(("cat", LEFT)), detected(("cat", LEFT), ("cat", RIGHT))], "2 cat"),
    ],
)
def test_the_line_of_a_table_counts_so_too(results: list[Any], words: str) -> None:
    assert summarise(results) == words
