"""Detection at twice a network's input size, so that small objects count: in tiles."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import cv2
import numpy as np

from shared.results import Box, Detection
from training.evaluate.photos import Pixels

SHARE = 0.5625
"""Of a picture's sides that a tile has: four tiles share an eighth of each side with the next."""
_SAME = 0.6
"""IoU from which two boxes of a class are one object: the packaged detector's own."""
_EDGE = 2.0
"""Pixels from a tile's inner edge within which a box is taken to be cut by it."""

Window = tuple[int, int, int, int]


def windows(width: int, height: int) -> Iterator[Window]:
    """The four tiles of a picture: left, top, right, bottom in pixels."""
    across, down = round(width * SHARE), round(height * SHARE)
    for top in (0, height - down):
        for left in (0, width - across):
            yield left, top, left + across, top + down


def find_in_tiles(
    find: Callable[[Pixels], Sequence[Detection]], picture: Pixels
) -> list[Detection]:
    """What is found on the whole of a picture and on its four tiles, best first.

    find: a detector of uint8 [h, w, 3]. Boxes that a tile's inner edge cuts are left out: the next
    tile or the whole picture has them. Of boxes of one class that overlap the best stays.
    """
    height, width = picture.shape[:2]
    found = list(find(picture))
    for window in windows(width, height):
        left, top, right, bottom = window
        tile = np.ascontiguousarray(picture[top:bottom, left:right])
        for one in find(tile):
            box = Box(
                x_min=one.box.x_min + left,
                y_min=one.box.y_min + top,
                x_max=one.box.x_max + left,
                y_max=one.box.y_max + top,
            )
            if not _cut(box, window, width, height):
                found.append(one.model_copy(update={"box": box}))
    if not found:
        return []
    boxes = [[o.box.x_min, o.box.y_min, o.box.width, o.box.height] for o in found]
    scores, classes = [one.score for one in found], [one.class_id for one in found]
    kept = cv2.dnn.NMSBoxesBatched(boxes, scores, classes, 0.0, _SAME)
    return sorted((found[int(k)] for k in np.ravel(kept)), key=lambda one: -one.score)


def _cut(box: Box, window: Window, width: int, height: int) -> bool:
    left, top, right, bottom = window
    return (
        (left > 0 and box.x_min < left + _EDGE)
        or (top > 0 and box.y_min < top + _EDGE)
        or (right < width and box.x_max > right - _EDGE)
        or (bottom < height and box.y_max > bottom - _EDGE)
    )
