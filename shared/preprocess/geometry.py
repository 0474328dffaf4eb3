"""Pictures that are arrays already: validation, padding to a multiple, cropping back."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from shared.errors import PhotoError
from shared.limits import DEFAULT_LIMITS, Limits

Picture = NDArray[np.uint8]  # HxWx3, RGB


def from_array(array: Any, *, limits: Limits = DEFAULT_LIMITS) -> Picture:
    """``array`` as a C-contiguous uint8 HxWx3 picture (copied only when it is not contiguous).

    Nothing is converted: a float or a greyscale array is refused, because its range and its
    meaning would be a guess. Raises PhotoError ``bad_array``, ``too_small`` or ``too_large``.
    """
    picture = _expect_picture(array)
    height, width = picture.shape[:2]
    check_sides(width, height, limits)
    return np.ascontiguousarray(picture)


def check_sides(width: int, height: int, limits: Limits) -> None:
    """Raise PhotoError ``too_small`` or ``too_large`` when a side (pixels) is out of bounds."""
    if min(width, height) < limits.min_side:
        raise PhotoError(
            "too_small",
            f"the photo is {width}x{height}; both sides must be {limits.min_side} or more",
            width=width,
            height=height,
        )
    if max(width, height) > limits.max_side:
        raise PhotoError(
            "too_large",
            f"the photo is {width}x{height}; no side may exceed {limits.max_side}",
            width=width,
            height=height,
        )


def padded_size(width: int, height: int, multiple: int) -> tuple[int, int]:
    """(width, height) rounded up to ``multiple``: the size that ``pad_to_multiple`` returns."""
    if multiple < 1 or width < 1 or height < 1:
        raise PhotoError("bad_size", f"cannot pad {width}x{height} to a multiple of {multiple}")
    return -(-width // multiple) * multiple, -(-height // multiple) * multiple


def pad_to_multiple(image: Picture, multiple: int) -> Picture:
    """Repeat the last column and the last row until both sides are multiples of ``multiple``.

    Padding is at the right and at the bottom, so a pixel keeps its coordinates. An image that
    fits already comes back as it is, not copied. Raises PhotoError ``bad_array``, ``bad_size``.
    """
    picture = _expect_picture(image)
    height, width = picture.shape[:2]
    padded_width, padded_height = padded_size(width, height, multiple)
    if (padded_width, padded_height) == (width, height):
        return picture
    rows_and_columns = ((0, padded_height - height), (0, padded_width - width), (0, 0))
    return np.pad(picture, rows_and_columns, mode="edge")


def crop_to(image: Picture, width: int, height: int) -> Picture:
    """The top-left ``width`` x ``height`` pixels, contiguous: undoes ``pad_to_multiple``.

    Raises PhotoError ``bad_array``, or ``bad_size`` when the image is smaller than that.
    """
    picture = _expect_picture(image)
    if not (1 <= height <= picture.shape[0] and 1 <= width <= picture.shape[1]):
        raise PhotoError(
            "bad_size",
            f"cannot crop {picture.shape[1]}x{picture.shape[0]} to {width}x{height}",
        )
    return np.ascontiguousarray(picture[:height, :width])


def _expect_picture(array: Any) -> Picture:
    if not isinstance(array, np.ndarray):
        raise PhotoError("bad_array", f"expected a numpy array, got {type(array).__name__}")
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        raise PhotoError(
            "bad_array",
            f"expected uint8 HxWx3, got {array.dtype} {'x'.join(map(str, array.shape))}",
        )
    return array
