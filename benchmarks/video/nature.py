"""What kind of clip it is, looked for in its pixels: fixed or moving camera, cuts, still, noise."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.video.clips import Pixels

FIXED, MOVING, CUTS, STILL, NOISE = "fixed", "moving", "cuts", "still", "noise"
_BLOCK = 16
_GAP = 5
"""Frames between two that tell a camera that moves from a street on which things do."""
_TEXTURED = 10.0
"""Grey levels of standard deviation within a block, from which one would see it move."""
_UNCHANGED = 3.0
"""Grey levels by which the mean of a block may differ and the block be called unchanged."""
_FIXED_SHARE = 0.4
_CUT_CHANGED = 0.7
_CUT_CORRELATION = 0.6
_NOISY = 3.0
"""Grey levels of standard deviation, from which a clip is called noisy."""

Grey = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Nature:
    """What was found. kinds: of FIXED, MOVING, CUTS, STILL, NOISE.

    unchanged: median share of textured blocks that are as they were five frames before. cuts:
    numbers of frames that begin a new scene. noise: standard deviation in grey levels, over time.
    """

    kinds: tuple[str, ...]
    unchanged: float
    cuts: tuple[int, ...]
    noise: float

    @property
    def camera(self) -> str:
        """FIXED or MOVING: a clip is one of the two."""
        return FIXED if FIXED in self.kinds else MOVING


def nature_of(frames: Iterable[Pixels]) -> Nature:
    """frames: uint8 [H, W, 3] each, in order; of fewer than two, nothing moves."""
    shares, noises, cuts, least = [], [], [], 1.0
    recent: deque[Grey] = deque(maxlen=_GAP)
    for number, frame in enumerate(frames):
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY).astype(np.float32)
        if recent:
            share, noise = _compare(recent[-1], grey)
            noises.append(noise)
            least = min(least, share)
            if share < 1 - _CUT_CHANGED and _correlation(recent[-1], grey) < _CUT_CORRELATION:
                cuts.append(number)
            shares.append(_textured_unchanged(recent[0], grey))
        recent.append(grey)
    unchanged = float(np.median(shares)) if shares else 1.0
    noise = float(np.median(noises)) if noises else 0.0
    kinds = [FIXED if unchanged >= _FIXED_SHARE else MOVING]
    kinds += [CUTS] if cuts else []
    kinds += [STILL] if least >= 1.0 else []
    kinds += [NOISE] if noise >= _NOISY else []
    return Nature(tuple(kinds), unchanged, tuple(cuts), noise)


def _compare(first: Grey, second: Grey) -> tuple[float, float]:
    """The share of unchanged blocks, and the noise within the calmer of those."""
    difference = second - first
    means = _blocks(difference)
    still = np.abs(means) <= _UNCHANGED
    spread = np.sqrt(np.maximum(0, _blocks(difference**2) - means**2) / 2)
    noise = float(np.quantile(spread[still], 0.25)) if still.any() else 0.0
    return float(still.mean()), noise


def _textured_unchanged(first: Grey, second: Grey) -> float:
    """The share of unchanged among the blocks on which motion would show; 1 without any."""
    means = _blocks(first)
    textured = _blocks(first**2) - means**2 > _TEXTURED**2
    still = np.abs(_blocks(second) - means) <= _UNCHANGED
    return float(still[textured].mean()) if textured.any() else 1.0


def _blocks(values: Grey) -> Grey:
    """Means of blocks of 16 x 16; what is over on the right and below is left out."""
    rows, columns = (max(1, side // _BLOCK) for side in values.shape)
    height, width = (min(side, _BLOCK) for side in values.shape)
    cut = values[: rows * height, : columns * width]
    means: Grey = cut.reshape(rows, height, columns, width).mean((1, 3))
    return means


def _correlation(first: Grey, second: Grey) -> float:
    """Of the blocks' means: near 1 for a camera that moves, low for another scene."""
    one, two = _blocks(first).ravel(), _blocks(second).ravel()
    if one.std() < 1 or two.std() < 1:
        return 1.0 if abs(float(one.mean() - two.mean())) < _UNCHANGED else 0.0
    return float(np.corrcoef(one, two)[0, 1])
