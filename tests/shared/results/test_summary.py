"""What was found, in words that a table has room for."""

from __future__ import annotations

from typing import Any

import pytest

from shared.results import Box, Classification, Detection, Face, ModelInfo, TaskResult, summarise

BOX = Box(x_min=0, y_min=0, x_max=1, y_max=1)


def result(task: str = "t", **found: Any) -> TaskResult:
    return TaskResult(task=task, model=[ModelInfo(name="m", version="1", licence="l")], **found)


def objects(*names: str) -> TaskResult:
    return result(
        detections=[Detection(box=BOX, class_id=1, class_name=name, score=1) for name in names]
    )


@pytest.mark.parametrize(
    ("results", "words"),
    [
        ([], "-"),
        ([objects()], "-"),
        ([objects("bus", "person", "person")], "2 person, 1 bus"),
        ([result(faces=[Face(box=BOX, score=1)])], "1 face"),
        ([objects("bus"), result(faces=[])], "1 bus; 0 faces"),
        (
            [result(classes=[Classification(class_id=0, class_name="tabby", score=0.71)])],
            "tabby 71%",
        ),
    ],
)
def test_what_was_found_is_counted_by_name(results: list[TaskResult], words: str) -> None:
    assert summarise(results) == words
