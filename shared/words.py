"""Counts in words."""

from __future__ import annotations


def counted(number: int, one: str, many: str | None = None) -> str:
    """``1 frame`` or ``2 frames``; with a verb by both: ``counted(1, "frame is", "frames are")``.

    many: ``one`` and an s when it is None.
    """
    return f"{number} {one if number == 1 else many or one + 's'}"
