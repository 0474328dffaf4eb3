"""What of a picture is painted anew when some of its values have changed."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

WORTH: Final = 0.85
"""Share of a whole picture's work from which the whole is painted."""


class Window(NamedTuple):
    """Rows and columns of positions, the last ones not included."""

    top: int
    bottom: int
    left: int
    right: int

    def wider(self, by: int, shape: tuple[int, int]) -> Window:
        """The window with so many positions more to each side, within a grid of that shape."""
        rows, columns = shape
        return Window(
            max(0, self.top - by),
            min(rows, self.bottom + by),
            max(0, self.left - by),
            min(columns, self.right + by),
        )

    @property
    def size(self) -> int:
        """How many positions it has."""
        return (self.bottom - self.top) * (self.right - self.left)


def windows(changed: Mask, reach: int) -> list[Window] | None:
    """The windows in which pixels may be others than before; None where a whole picture is less
    work.

    changed: bool [h, w], the positions whose values are others. reach: positions to each side that
    a position's pixels depend on: whoever paints a window looks at so many around it.
    """
    rows, columns = changed.shape
    found = [
        window.wider(reach, (rows, columns))
        for window in _parts(changed, Window(0, rows, 0, columns), 2 * reach)
    ]
    work = sum(window.wider(reach, (rows, columns)).size for window in found)
    return found if work < WORTH * rows * columns else None


def _parts(changed: Mask, within: Window, gap: int) -> list[Window]:
    """Windows around all that changed, cut where nothing did for more than ``gap`` positions."""
    part = changed[within.top : within.bottom, within.left : within.right]
    if not part.any():
        return []
    lines = [np.flatnonzero(part.any(axis)) for axis in (1, 0)]
    (top, bottom), (left, right) = ((int(line[0]), int(line[-1]) + 1) for line in lines)
    found = Window(within.top + top, within.top + bottom, within.left + left, within.left + right)
    for axis, line in enumerate(lines):
        steps = np.diff(line)
        if not len(steps) or steps.max() <= gap:
            continue
        cut = int(line[steps.argmax()]) + 1 + (within.left if axis else within.top)
        if axis:
            halves = (found._replace(right=cut), found._replace(left=cut))
        else:
            halves = (found._replace(bottom=cut), found._replace(top=cut))
        return [window for half in halves for window in _parts(changed, half, gap)]
    return [found]
