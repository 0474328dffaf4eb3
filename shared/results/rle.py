"""COCO's compressed run-length code for masks: written, and read without trusting it.

The code (``rleToString`` in pycocotools' ``maskApi.c``): run lengths of the mask read column by
column, background first; from the fourth on, each run as the difference to the one two before;
each number in groups of 5 bits, the least significant first, with bit 5 for "more follows", the
sign in the last group's bit 4, and 48 added to make a printable character.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from shared.errors import TaskError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.results.types import RleMask

_MAX_GROUPS = 7  # 35 bits: more than any run of a 8192x8192 picture needs


def encode_mask(mask: NDArray[np.uint8]) -> RleMask:
    """A mask (uint8 [height, width], 0 or 1) as COCO's compressed runs."""
    flat = mask.T.reshape(-1) != 0
    edges = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    runs = np.diff(np.concatenate([[0], edges, [flat.size]])).astype(np.int64)
    if flat.size and flat[0]:
        runs = np.concatenate([np.zeros(1, np.int64), runs])
    numbers = runs.copy()
    numbers[3:] -= runs[1:-2]
    return RleMask(size=(mask.shape[0], mask.shape[1]), counts=_write_numbers(numbers))


def decode_runs(mask: RleMask, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.int64]:
    """Run lengths, int64 [R], alternating background and foreground; they sum to height x width.

    Raises TaskError(``bad_mask``) for a size over the limits, a character outside the code, a
    number that is cut off or too long, a negative run, or runs that do not fill the mask exactly.
    """
    runs = _bounded_runs(mask, limits)
    total, pixels = int(runs.sum()), mask.size[0] * mask.size[1]
    if total != pixels:
        raise TaskError("bad_mask", f"the runs of the mask fill {total} of its {pixels} pixels")
    return runs


def _bounded_runs(mask: RleMask, limits: Limits) -> NDArray[np.int64]:
    height, width = mask.size
    if not (1 <= height <= limits.max_side and 1 <= width <= limits.max_side):
        raise TaskError("bad_mask", f"a mask of {width}x{height} pixels is over the limit")
    pixels = height * width
    # No run but the first is empty in what an encoder writes, which bounds their number.
    if len(mask.counts) > _MAX_GROUPS * (pixels + 1):
        raise TaskError("bad_mask", f"{len(mask.counts)} characters are too many for the mask")
    runs = _undo_differences(_read_numbers(mask.counts))
    if runs.size and int(runs.min()) < 0:
        raise TaskError("bad_mask", f"run {int(runs.argmin())} of the mask is negative")
    # Nothing above wraps round: at most 2^26 numbers of 35 bits fit the characters allowed.
    if runs.size and int(runs.max()) > pixels:
        raise TaskError("bad_mask", f"a run of the mask exceeds its {pixels} pixels")
    return runs


def decode_mask(mask: RleMask, *, limits: Limits = DEFAULT_LIMITS) -> NDArray[np.bool_]:
    """The mask as bool [height, width]. Raises TaskError(``bad_mask``) like ``decode_runs``."""
    height, width = mask.size
    runs = decode_runs(mask, limits=limits)
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    return np.ascontiguousarray(flat.reshape(width, height).T)


def complete_mask(mask: RleMask) -> RleMask:
    """The mask, with background where its runs end early: COCO's tools show there whatever was in
    their memory. Raises TaskError(``bad_mask``) like ``decode_runs`` for anything else."""
    runs = _bounded_runs(mask, DEFAULT_LIMITS)
    pixels = mask.size[0] * mask.size[1]
    if int(runs.sum()) >= pixels:
        decode_runs(mask)
        return mask
    inside = np.repeat(np.arange(len(runs)) % 2, runs).astype(np.uint8)
    flat = np.zeros(pixels, np.uint8)
    flat[: len(inside)] = inside
    return encode_mask(flat.reshape(mask.size[1], mask.size[0]).T)


def mask_box(mask: RleMask) -> tuple[int, tuple[float, float, float, float]]:
    """Pixels of a mask, and the box around them (x, y, width, height); all 0 when it is empty.

    Raises TaskError(``bad_mask``) like ``decode_runs``.
    """
    height = mask.size[0]
    runs = decode_runs(mask)
    ends = np.cumsum(runs)[1::2]
    inside = runs[1::2] > 0
    first, last = ends[inside] - runs[1::2][inside], ends[inside] - 1
    if not first.size:
        return 0, (0.0, 0.0, 0.0, 0.0)
    left, right = int(first[0]) // height, int(last[-1]) // height
    # A run that goes on into the next column touches the upper and the lower edge.
    across = first // height != last // height
    top = 0 if across.any() else int((first % height).min())
    bottom = height - 1 if across.any() else int((last % height).max())
    box = (float(left), float(top), float(right - left + 1), float(bottom - top + 1))
    return int(runs[1::2].sum()), box


def mask_iou(first: RleMask, second: RleMask) -> float:
    """Intersection over union, 0..1, from the runs alone; 0 when both masks are empty.

    Raises TaskError(``bad_mask``) also when the masks differ in size.
    """
    if first.size != second.size:
        raise TaskError("bad_mask", f"masks of {first.size} and {second.size} do not compare")
    runs_a, runs_b = decode_runs(first), decode_runs(second)
    edges_a = np.concatenate([[0], np.cumsum(runs_a)])
    edges_b = np.concatenate([[0], np.cumsum(runs_b)])
    inside_b = np.where(np.arange(len(runs_b)) % 2 == 1, runs_b, 0)
    # Foreground of b before a position is linear between b's edges (float64 is exact here).
    filled_b = np.concatenate([[0], np.cumsum(inside_b)])
    before = np.interp(edges_a, edges_b, filled_b)
    intersection = float(np.diff(before)[1::2].sum())
    union = float(runs_a[1::2].sum() + runs_b[1::2].sum()) - intersection
    return intersection / union if union > 0 else 0.0


def _read_numbers(counts: str) -> NDArray[np.int64]:
    """The signed numbers of a code, int64; each of at most 35 bits."""
    try:
        codes = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - 48
    except UnicodeEncodeError as error:
        raise TaskError("bad_mask", "the mask has a character outside the code") from error
    if codes.size == 0:
        return codes
    if int(codes.min()) < 0 or int(codes.max()) > 63:
        raise TaskError("bad_mask", "the mask has a character outside the code")
    last = np.flatnonzero((codes & 32) == 0)
    if last.size == 0 or last[-1] != codes.size - 1:
        raise TaskError("bad_mask", "the mask's last number is cut off")
    first = np.concatenate([[0], last[:-1] + 1])
    groups = last - first + 1
    if int(groups.max()) > _MAX_GROUPS:
        raise TaskError("bad_mask", "the mask has a number that is too long")
    place = np.arange(codes.size) - np.repeat(first, groups)
    numbers: NDArray[np.int64] = np.add.reduceat((codes & 31) << (5 * place), first)
    negative = (codes[last] & 16) != 0
    numbers[negative] -= np.int64(1) << (5 * groups[negative])
    return numbers


def _write_numbers(numbers: NDArray[np.int64]) -> str:
    """The code of signed numbers, each of at most 35 bits."""
    codes = np.zeros((len(numbers), _MAX_GROUPS), np.uint8)
    lengths = np.zeros(len(numbers), np.int64)
    rest, going = numbers.copy(), np.ones(len(numbers), np.bool_)
    for place in range(_MAX_GROUPS):
        group = rest & 31
        rest >>= 5
        # The last group is the one after which nothing is left but its own sign.
        more = np.where(group & 16, rest != -1, rest != 0)
        codes[:, place] = group + 32 * more + 48
        lengths += going
        going &= more
    used = np.arange(_MAX_GROUPS) < lengths[:, None]
    return codes[used].tobytes().decode("ascii")


def _undo_differences(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
    """Runs from numbers: from the fourth on, each was coded less the run two before it."""
    runs = numbers.copy()
    runs[1::2] = np.cumsum(numbers[1::2])
    runs[2::2] = np.cumsum(numbers[2::2])
    return runs
