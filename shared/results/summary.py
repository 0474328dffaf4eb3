"""What was found, in a line of a table."""

from __future__ import annotations

from collections.abc import Iterable

from shared.results.counting import FACE, counts_of
from shared.results.types import TaskResult


def summarise(results: Iterable[TaskResult]) -> str:
    """How many of what, such as ``2 person, 1 bus; 1 face; tabby 71%; road 40%, sky 22%``.

    What several tasks have found is counted once (``shared.results.counting``).
    """
    given = list(results)
    counts = counts_of(given)
    faces = counts.pop(FACE, 0)
    parts = [", ".join(f"{count} {name}" for name, count in counts.items())]
    if any(result.faces is not None for result in given):
        parts.append("1 face" if faces == 1 else f"{faces} faces")
    parts += [_of_the_picture(result) for result in given]
    return "; ".join(filter(None, parts)) or "-"


def _of_the_picture(result: TaskResult) -> str:
    if result.classes is not None:
        return ", ".join(f"{one.class_name} {one.score:.0%}" for one in result.classes[:1])
    return ", ".join(f"{one.class_name} {one.share:.0%}" for one in (result.regions or ())[:3])
