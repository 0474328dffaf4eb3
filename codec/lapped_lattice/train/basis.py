"""The linear codec that training starts from: a lapped biorthogonal transform of YCbCr.

One block of M samples has M cosines of 2 M taps. The transform is the block's DCT-II behind a
filter across the block's borders (Tran, Liang and Tu, "Lapped transform via time-domain pre- and
post-filtering", IEEE Trans. Signal Processing 2003): F = W diag(I, V) W with W = [I J; J -I] /
sqrt(2) and V = J C2' diag(s, 1, ..., 1) C4 J, where C2 and C4 are DCTs of types II and IV of M / 2
samples; s = sqrt(2) has the greatest coding gain for a first-order process of correlation 0.95:
9.93 dB at M = 16, beside 9.46 of the DCT. Every function is even or odd about its block's middle,
so that pictures that go on mirrored beyond their edges are inverted exactly, from their own
coefficients alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]

TO_YCBCR: Matrix = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
"""Of ITU-R BT.601, full range, without offsets: RGB to Y, Cb, Cr."""
SPREAD = math.sqrt(2)


def dct(size: int) -> Matrix:
    """The orthonormal DCT-II: [size, size], a function a row."""
    row, column = np.arange(size)[:, None], np.arange(size)[None]
    found = np.sqrt(2 / size) * np.cos(np.pi * row * (2 * column + 1) / (2 * size))
    found[0] /= np.sqrt(2)
    return np.asarray(found, np.float64)


def lapped(size: int) -> tuple[Matrix, Matrix]:
    """Analysis and synthesis functions of a block: [size, 2 size] each, function k of parity
    (-1)**k; the block is the middle half of the taps. size: even."""
    half = size // 2
    row, column = np.arange(half)[:, None], np.arange(half)[None]
    fourth = np.sqrt(2 / half) * np.cos(np.pi * (2 * row + 1) * (2 * column + 1) / (4 * half))
    turn, eye, none = np.eye(half)[::-1], np.eye(half), np.zeros((half, half))
    spread = np.eye(half)
    spread[0, 0] = SPREAD
    inner = turn @ dct(half).T @ spread @ fourth @ turn
    butterfly = np.block([[eye, turn], [turn, -eye]]) / np.sqrt(2)

    def border(matrix: Matrix) -> Matrix:
        whole = butterfly @ np.block([[eye, none], [none, matrix]]) @ butterfly
        both = np.zeros((2 * size, 2 * size))
        both[:size, :size] = both[size:, size:] = whole
        return both

    block = dct(size)
    before, after = border(inner), border(np.linalg.inv(inner))
    analysis = block @ before[half : half + size]
    synthesis = (after[:, half : half + size] @ block.T).T
    return analysis, synthesis


@dataclass(frozen=True)
class Channel:
    """One function of the transform: frequencies down and across, colour (0 Y, 1 Cb, 2 Cr), and
    what a unit of the coefficient is in the channel's value."""

    down: int
    across: int
    colour: int
    gain: float


@dataclass(frozen=True, eq=False)
class Basis:
    """The channels that are kept, averages first and then by falling variance.

    analysis: float64 [C, 2M, 2M], from a channel's colour to its values. synthesis: the same shape,
    from values back. parity: float64 [C, 2], -1 or 1, down and across. deviations: float64 [C], of
    the values of the photos.
    """

    channels: tuple[Channel, ...]
    analysis: Matrix
    synthesis: Matrix
    parity: Matrix
    deviations: Matrix

    @property
    def counts(self) -> tuple[int, int, int]:
        """Channels of each colour."""
        y, cb, cr = (sum(one.colour == colour for one in self.channels) for colour in range(3))
        return y, cb, cr

    def to_arrays(self) -> dict[str, npt.NDArray[np.generic]]:
        """Which channels there are, for a file; :func:`read_basis` is the inverse."""
        places = [(one.down, one.across, one.colour) for one in self.channels]
        gains = [one.gain for one in self.channels]
        return {
            "places": np.array(places, np.int16),
            "gains": np.array(gains),
            "deviations": self.deviations,
        }


def unit_gains(size: int, chroma: float) -> Matrix:
    """float64 [size, size, 3]: by how much each coefficient is multiplied so that a unit of error
    costs the same squared error of RGB in all of them, with that of Cb and Cr over chroma**2."""
    _, synthesis = lapped(size)
    energy = np.square(synthesis).sum(1)
    colours = np.square(np.linalg.inv(TO_YCBCR)).sum(0) / np.array([1, chroma**2, chroma**2])
    gains = np.sqrt(energy[:, None, None] * energy[None, :, None] * colours / 3)
    return np.asarray(gains, np.float64)


def coefficients(picture: npt.NDArray[Any], size: int) -> Matrix:
    """The transform of a picture [H, W, 3] (RGB, sides at least ``size``, cut to its multiples)
    that goes on mirrored: float64 [h, w, size, size, 3], down, across, colour."""
    analysis, _ = lapped(size)
    rows, columns = picture.shape[0] // size, picture.shape[1] // size
    half = size // 2
    colour = picture[: rows * size, : columns * size].astype(np.float64) @ TO_YCBCR.T
    wide = np.pad(colour, ((half, half), (half, half), (0, 0)), mode="symmetric")
    here = [np.tensordot(analysis, wide[r * size : (r + 2) * size], 1) for r in range(rows)]
    down = np.stack(here)
    across = [
        np.tensordot(down[:, :, c * size : (c + 2) * size], analysis, (2, 1))
        for c in range(columns)
    ]
    return np.stack(across, 1).transpose(0, 1, 2, 4, 3)


def best_basis(
    photos: Iterable[npt.NDArray[np.uint8]], channels: int, chroma: float, size: int = 16
) -> Basis:
    """The ``channels`` functions whose values vary most on the photos (uint8 [H, W, 3]), behind the
    averages of the three colours: these vary less than some frequencies of Y, but a bit of them
    saves more error, as they vary slowly, and what they lack is seen as a tint.

    Pictures are in -0.5..0.5. chroma: see :func:`unit_gains`. Raises ValueError without photos.
    """
    gains = unit_gains(size, chroma)
    total, count = np.zeros((size, size, 3)), 0
    for photo in photos:
        found = coefficients(photo / 255 - 0.5, size) * gains
        total += np.square(found).sum((0, 1))
        count += found.shape[0] * found.shape[1]
    if not count:
        raise ValueError("a basis is chosen on at least one photo")
    power = total / count
    rank = power.copy()
    rank[0, 0] += power.max()
    order = np.argsort(-rank, axis=None)[:channels]
    down, across, colour = np.unravel_index(order, power.shape)
    rows = zip(down.tolist(), across.tolist(), colour.tolist(), strict=True)
    kept = tuple(Channel(d, a, c, float(gains[d, a, c])) for d, a, c in rows)
    return _basis(kept, size, np.sqrt(power[down, across, colour]))


def read_basis(arrays: Mapping[str, npt.NDArray[np.generic]], size: int = 16) -> Basis:
    """What :meth:`Basis.to_arrays` gave."""
    rows = zip(arrays["places"].tolist(), arrays["gains"].tolist(), strict=True)
    channels = tuple(Channel(d, a, c, gain) for (d, a, c), gain in rows)
    return _basis(channels, size, np.asarray(arrays["deviations"], np.float64))


def _basis(channels: tuple[Channel, ...], size: int, deviations: Matrix) -> Basis:
    analysis, synthesis = lapped(size)
    forward, back, parity = [], [], []
    for one in channels:
        forward.append(np.outer(analysis[one.down], analysis[one.across]) * one.gain)
        back.append(np.outer(synthesis[one.down], synthesis[one.across]) / one.gain)
        parity.append([(-1.0) ** one.down, (-1.0) ** one.across])
    return Basis(channels, np.stack(forward), np.stack(back), np.array(parity), deviations)
