"""Regions of interest on a grid of positions."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from shared.targets import Regions

States = npt.NDArray[np.uint8]
"""The state of every position: uint8 [rows, columns]."""


def grid_of_states(
    regions: Regions, rest: int, width: int, height: int, rows: int, columns: int, stride: int
) -> States:
    """uint8 [rows, columns]: the state of every position, ``rest`` where no region is finer.

    width, height: of the picture in pixels. stride: pixels between positions. A region takes every
    position whose pixels it touches.
    """
    states = np.full((rows, columns), min(rest, 255), np.uint8)
    for region in regions:
        top, bottom = _span(region.y_min, region.y_max, height, stride)
        left, right = _span(region.x_min, region.x_max, width, stride)
        part = states[top:bottom, left:right]
        np.minimum(part, region.state, out=part)
    return states


def _span(low: float, high: float, pixels: int, stride: int) -> tuple[int, int]:
    first = int(low * pixels) // stride
    return first, max(first + 1, -(-math.ceil(high * pixels) // stride))
