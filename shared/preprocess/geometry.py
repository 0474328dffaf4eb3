"""Sizes of pictures: padding to what a codec can halve, a network's input and positions in it; and
what a picture loses where it is reduced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from shared.errors import PhotoError
from shared.limits import DEFAULT_LIMITS, Limits

Picture = NDArray[np.uint8]  # HxWx3, RGB
LETTERBOX_GREY = 114
"""The grey that YOLO's networks are trained with around pictures of other proportions."""


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


def resized(image: Picture, size: tuple[int, int]) -> Picture:
    """The picture, uint8 [H, W, 3], at another size (width, height in pixels): areas are averaged
    where it has fewer pixels then, else what lies between is interpolated."""
    smaller = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = Image.Resampling.BOX if smaller else Image.Resampling.BILINEAR
    return np.asarray(Image.fromarray(image).resize(size, method))


@dataclass(frozen=True, slots=True)
class Placement:
    """Where a picture of ``width`` x ``height`` pixels lies in a network's input.

    The picture covers ``inner_width`` x ``inner_height`` pixels of ``to_width`` x ``to_height``,
    from (``left``, ``top``).
    """

    width: int
    height: int
    to_width: int
    to_height: int
    left: int
    top: int
    inner_width: int
    inner_height: int

    @classmethod
    def of(
        cls,
        width: int,
        height: int,
        to_width: int,
        to_height: int,
        fit: Literal["stretch", "letterbox"] = "stretch",
    ) -> Placement:
        """The placement of a picture: stretch fills the input, letterbox keeps the proportions,
        centred."""
        inner_width, inner_height = to_width, to_height
        if fit == "letterbox":
            scale = min(to_width / width, to_height / height)
            inner_width = min(to_width, max(1, round(scale * width)))
            inner_height = min(to_height, max(1, round(scale * height)))
        left, top = (to_width - inner_width) // 2, (to_height - inner_height) // 2
        return cls(width, height, to_width, to_height, left, top, inner_width, inner_height)

    def apply(
        self,
        image: Picture,
        resize: Callable[[Picture, tuple[int, int]], Picture] | None = None,
    ) -> Picture:
        """The network's input, uint8 [to_height, to_width, 3]: areas averaged where it shrinks.

        resize: does what ``resized`` does, with the same bits.
        """
        inner = (self.inner_width, self.inner_height)
        if inner != (self.width, self.height):
            image = (resize or resized)(image, inner)
        if inner == (self.to_width, self.to_height):
            return np.ascontiguousarray(image)
        canvas = np.full((self.to_height, self.to_width, 3), LETTERBOX_GREY, np.uint8)
        rows = slice(self.top, self.top + self.inner_height)
        canvas[rows, self.left : self.left + self.inner_width] = image
        return canvas

    def boxes(self, shares: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Boxes [..., 4] as shares of the input -> pixels of the picture, not cut to it."""
        size = np.array([self.to_width, self.to_height] * 2, np.float64)
        start = np.array([self.left, self.top] * 2, np.float64)
        inner = np.array([self.inner_width, self.inner_height] * 2, np.float64)
        picture = np.array([self.width, self.height] * 2, np.float64)
        out: NDArray[np.float64] = (shares.astype(np.float64) * size - start) / inner * picture
        return out


_BLOCKS = (2, 4, 8)
"""Sides of the blocks, in pixels."""


def block_detail(image: Picture) -> tuple[float, ...]:
    """Mean squared deviation of pixels (in 0..1) from the mean of their block, for each size.

    image: uint8 [H, W, 3], sides of at least 8; what exceeds whole blocks of 8 is left out. A
    picture reduced by such a factor and enlarged again has about this error.
    """
    height, width = (side // _BLOCKS[-1] * _BLOCKS[-1] for side in image.shape[:2])
    sums = image[:height, :width].astype(np.uint16)
    power = [float(np.mean(np.square(sums), dtype=np.float64))]  # 255**2 fits 16 bits
    for side in _BLOCKS:
        rows = sums[0::2] + sums[1::2]
        sums = rows[:, 0::2] + rows[:, 1::2]
        means = sums.astype(np.float32) / np.float32(side * side)
        power.append(float(np.mean(np.square(means), dtype=np.float64)))
    return tuple(max(power[0] - here, 0.0) / 255.0**2 for here in power[1:])
