"""What was found, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from shared.results.types import TaskResult


def found_words(tasks: Iterable[TaskResult]) -> str:
    """How many of what, such as ``2 person, 1 bus; 3 faces; tabby 71%; road 40%, sky 22%``."""
    parts = []
    for task in tasks:
        if task.faces is not None:
            parts.append(f"{len(task.faces)} faces")
        elif task.classes is not None:
            parts.append(", ".join(f"{c.class_name} {c.score:.0%}" for c in task.classes[:1]))
        elif task.regions is not None:
            parts.append(", ".join(f"{r.class_name} {r.share:.0%}" for r in task.regions[:3]))
        else:
            names = Counter(item.class_name for item in task.detections or task.instances or ())
            parts.append(", ".join(f"{count} {name}" for name, count in names.most_common()))
    return "; ".join(part for part in parts if part) or "-"


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
