"""Pictures brought to a network's size with Pillow's bits, in a third of its time.

Pillow's box filter gives every position of the output the mean of the positions that it covers,
rounded to the nearest level, first along rows and then along columns. Along rows that is a product
with a small matrix that repeats, of bytes, which ONNX Runtime does faster than anything else that a
device has; along columns it is additions of whole rows.
"""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.runtime.graph import Builder
from shared.preprocess.geometry import Picture, resized

Rows = npt.NDArray[np.int64]
_WEIGHT = 4
"""Of every position that is covered: a mean is then (4 sum +- 1) / (4 count), in which no half is
left that could be rounded the other way."""
_PILLOW_BITS = 22
"""Of the fixed point that Pillow counts with: what a weight of 1/count is rounded to there decides
where halves go."""
_MOST_COLUMNS = 128
"""Of the matrix, in positions of the input: a longer one is more zeros than work."""
_USUAL_COLUMNS = 24
"""As many as make the matrix wide enough for the processor's."""


class Resizer:
    """uint8 [H, W, 3] and a size -> what ``shared.preprocess.geometry.resized`` makes of it.

    The quick way is made ready for a size that comes a second time, as that of a video's pictures
    does, and taken if it gives the same bits as Pillow here.
    """

    def __init__(self) -> None:
        # One value, so that threads see what belongs together.
        self._last: tuple[tuple[int, ...], Callable[[Picture], Picture] | None] = ((), None)

    def __call__(self, image: Picture, size: tuple[int, int]) -> Picture:
        """size: width and height in pixels."""
        height, width = image.shape[:2]
        sizes = (width, height, *size)
        last, ready = self._last
        if last != sizes:
            self._last = (sizes, None)
            return resized(image, size)
        if ready is None:
            ready = _checked(sizes) or functools.partial(resized, size=size)
            self._last = (sizes, ready)
        return ready(image)


def covered(before: int, after: int) -> list[Rows]:
    """Which positions of ``before`` each of ``after`` is the mean of, as Pillow has it.

    ``precompute_coeffs`` and ``box_filter`` of its ``Resample.c``.
    """
    scale = before / after
    wide = max(scale, 1.0)
    found = []
    for number in range(after):
        centre = (number + 0.5) * scale
        first = max(0, int(centre - 0.5 * wide + 0.5))
        last = min(before, int(centre + 0.5 * wide + 0.5))
        near = np.arange(first, last)
        distance = (near - centre + 0.5) * (1.0 / wide)
        found.append(near[(distance > -0.5) & (distance <= 0.5)])
    return found


def _halves(counts: Rows) -> npt.NDArray[np.int32]:
    """1 where Pillow rounds a half in the mean of so many values up, -1 where it rounds it down."""
    whole = 1 << _PILLOW_BITS
    weights = (2 * whole + counts) // (2 * counts)
    return np.where(weights * counts >= whole, 1, -1).astype(np.int32)


@functools.lru_cache(maxsize=8)
def _checked(sizes: tuple[int, ...]) -> _BoxFilter | None:
    """The quick way for a picture of (width, height) to become one of (width, height); None where
    there is none, or it gives other bits than Pillow. Kept, as photos of two sizes may take turns.
    """
    width, height, to_width, to_height = sizes
    if to_width * to_height >= width * height:
        return None
    try:
        quick = _BoxFilter(width, height, to_width, to_height)
        noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
        # Half of it in three levels, so that many sums lie at or beside a half.
        noise[: height // 2] //= 100
        same = np.array_equal(quick(noise), resized(noise, (to_width, to_height)))
    except Exception:  # noqa: BLE001  onnxruntime's errors share no base class
        return None
    return quick if same else None


class _BoxFilter:
    """One size to another."""

    def __init__(self, width: int, height: int, to_width: int, to_height: int) -> None:
        """Raises ValueError where the pattern repeats too seldom, and what ONNX Runtime does."""
        self._shape = (height, to_width)
        self._columns = _columns(width, to_width)
        self._rows: list[tuple[Rows, list[Rows], int]] = []
        by_count: dict[int, list[int]] = defaultdict(list)
        taken = covered(height, to_height)
        for row, positions in enumerate(taken):
            by_count[len(positions)].append(row)
        for count, rows in sorted(by_count.items()):
            taps = [np.array([taken[row][tap] for row in rows]) for tap in range(count)]
            up = int(_halves(np.array([count]))[0])
            self._rows.append((np.array(rows), taps, up))
        self._size = (to_height, to_width, 3)

    def __call__(self, image: Picture) -> Picture:
        height, to_width = self._shape
        (narrow,) = self._columns.run(None, {"image": image})
        lines = narrow.reshape(height, to_width * 3)
        out = np.empty((self._size[0], to_width * 3), np.uint8)
        for rows, taps, up in self._rows:
            if len(taps) == 1:
                out[rows] = lines[taps[0]]
                continue
            sums = lines[taps[0]].astype(np.uint16)  # 257 rows of 255 would fit
            for tap in taps[1:]:
                sums += lines[tap]
            sums += (len(taps) + min(up, 0)) // 2
            out[rows] = sums // len(taps)
        return out.reshape(self._size)


def _columns(before: int, after: int) -> Any:
    """A session that makes rows narrower: ``image`` uint8 [H, before, 3] -> uint8 [n, m], which are
    the values of [H, after, 3] in their order."""
    import onnxruntime as ort

    common = math.gcd(before, after)
    if before // common > _MOST_COLUMNS:
        raise ValueError(f"{before} to {after} columns: the pattern is too long")
    # Two or more repetitions at a time, where rows have so many.
    times = max(
        n
        for n in range(1, common + 1)
        if common % n == 0 and (n == 1 or n * before // common <= _USUAL_COLUMNS)
    )
    wide, narrow = times * before // common, times * after // common
    taken = covered(wide, narrow)
    matrix = np.zeros((wide, 3, narrow, 3), np.int8)
    for column, positions in enumerate(taken):
        for channel in range(3):
            matrix[positions, channel, column, channel] = _WEIGHT
    counts = np.repeat([len(positions) for positions in taken], 3)
    builder = Builder("rows")
    builder.stored("shape", np.array([-1, wide * 3], np.int64))
    builder.stored("matrix", matrix.reshape(wide * 3, narrow * 3))
    builder.stored("scales", (1 / (_WEIGHT * counts)).astype(np.float32))
    builder.stored("one", np.array(1, np.float32))
    builder.stored("halves", _halves(counts))
    builder.stored("zero", np.array(0, np.uint8))
    builder.stored("zeros", np.zeros(narrow * 3, np.int8))
    builder.node("Reshape", ["image", "shape"], "rows")
    inputs = ["rows", "one", "zero", "matrix", "scales", "zeros", "halves", "one", "zero"]
    builder.node("QGemm", inputs, "narrow", domain="com.microsoft")
    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    data = builder.model({"image": np.uint8}, {"narrow": np.uint8})
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
