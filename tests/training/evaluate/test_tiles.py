"""Tiles: what is small on the whole is found, what a tile cuts is not, and nothing twice."""

from __future__ import annotations

import numpy as np

from shared.results import Box, Detection
from training.evaluate.judges.tiles import find_in_tiles, windows

WIDTH, HEIGHT = 640, 480


def blobs(least: int):  # type: ignore[no-untyped-def]
    """A detector of bright squares, which sees those of a ``least`` share of its picture only."""

    def find(picture: np.ndarray) -> list[Detection]:
        found = []
        for value in np.unique(picture[..., 0])[1:]:
            rows, columns = np.nonzero(picture[..., 0] == value)
            across = int(np.ptp(columns)) + 1
            if across * least < picture.shape[1]:
                continue
            box = Box(
                x_min=float(columns.min()),
                y_min=float(rows.min()),
                x_max=float(columns.max() + 1),
                y_max=float(rows.max() + 1),
            )
            score = 0.5 + across / picture.shape[1] / 2
            found.append(Detection(box=box, class_id=1, class_name="blob", score=score))
        return found

    return find


def squares(*corners: tuple[int, int, int]) -> np.ndarray:
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for number, (left, top, side) in enumerate(corners, 1):
        picture[top : top + side, left : left + side] = number
    return picture


def boxes(found: list[Detection]) -> list[tuple[float, float, float]]:
    return sorted((one.box.x_min, one.box.y_min, one.box.width) for one in found)


def test_small_ones_are_found_where_they_are_and_large_ones_once() -> None:
    small, large = (600, 430, 20), (100, 60, 300)
    picture = squares(small, large)
    assert boxes(blobs(20)(picture)) == [(100, 60, 300)]
    assert boxes(find_in_tiles(blobs(20), picture)) == [(100, 60, 300), (600, 430, 20)]


def test_what_two_tiles_share_is_found_once_with_its_best_score() -> None:
    found = find_in_tiles(blobs(20), squares((310, 230, 24)))
    assert boxes(found) == [(310, 230, 24)]
    assert found[0].score == 0.5 + 24 / 360 / 2


def test_what_a_tile_cuts_is_left_to_the_others() -> None:
    """Across an edge of the left tiles, which end at 360; the right ones begin at 280."""
    assert boxes(find_in_tiles(blobs(20), squares((350, 40, 30)))) == [(350, 40, 30)]


def test_tiles_cover_the_picture_and_nothing_is_found_on_nothing() -> None:
    covered = np.zeros((HEIGHT, WIDTH), bool)
    for left, top, right, bottom in windows(WIDTH, HEIGHT):
        covered[top:bottom, left:right] = True
    assert covered.all()
    assert find_in_tiles(blobs(20), squares()) == []
