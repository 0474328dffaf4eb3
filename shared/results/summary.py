"""What was found, in a few words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from shared.results.types import TaskResult


def summarise(results: Iterable[TaskResult]) -> str:
    """How many of what, such as ``2 person, 1 bus; 1 face; tabby 71%; road 40%, sky 22%``."""
    parts = [part for result in results if (part := _one(result))]
    return "; ".join(parts) or "-"


def found_counts(tasks: Iterable[TaskResult]) -> dict[str, int]:
    """How many objects of each class: the most that one task found, faces as ``face``."""
    most: Counter[str] = Counter()
    for task in tasks:
        items = task.detections or task.instances or ()
        here = Counter(item.class_name for item in items)
        if task.faces:
            here["face"] = len(task.faces)
        most |= here
    return dict(most)


def _one(result: TaskResult) -> str:
    if result.faces is not None:
        count = len(result.faces)
        return "1 face" if count == 1 else f"{count} faces"
    if result.classes is not None:
        return ", ".join(f"{one.class_name} {one.score:.0%}" for one in result.classes[:1])
    if result.regions is not None:
        return ", ".join(f"{one.class_name} {one.share:.0%}" for one in result.regions[:3])
    names = Counter(one.class_name for one in result.detections or result.instances or ())
    return ", ".join(f"{count} {name}" for name, count in names.most_common())
