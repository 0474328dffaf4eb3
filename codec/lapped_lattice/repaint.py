"""What of a picture is painted anew when some of its values have changed."""

from __future__ import annotations

from codec.areas.boxes import WORTH, Box, Mask, rectangles, widened


def repainted(changed: Mask, reach: int) -> list[Box] | None:
    """Boxes of positions whose pixels may be others than before; None where a whole picture is
    less work.

    changed: bool [h, w], the positions whose values are others. reach: positions to each side that
    a position's pixels depend on: whoever paints a box looks at so many around it.
    """
    grid = Box(0, 0, *changed.shape)

    def work(box: Box) -> int:
        return box.grown(reach, grid).cells

    found = rectangles(widened(changed, reach), work)
    return found if sum(map(work, found)) < WORTH * grid.cells else None
