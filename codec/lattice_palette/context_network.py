"""One plane's context network: integers in, a mean and a scale of every channel out.

For a position in phase p, with g the plane's channels:

    hidden  = clip((past . W_past + own . W_own[p] + bias[p]) >> shifts[0], 0, 255)
    middle  = clip((hidden . W_middle + middle_bias) >> shifts[1], 0, 255)
    outputs = (middle . W_out + out_bias) >> shifts[2]

- past: values of the planes sent before, in the 3 x 3 positions around this one;
- own: values of this plane in the window around it, as far as they were sent in phases before;
- outputs: C means in eighths of a step, then C numbers of scales.

Values enter bent, ``sign(v) * (sqrt(|v| + 1/4) - 1/2)`` in sixteenths, from a table of integers,
so that rare large values do not shout. Every sum of absolute terms stays below 2**24: float32
arithmetic in any order is exact, and all machines agree. A network that breaks the bound is
refused. The order of channels in groups and positions in phases: He et al., "ELIC" (CVPR 2022).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from codec.exact import (
    ACTIVATION_LIMIT,
    absolute,
    check_bound,
    check_integers,
    named_fields,
    read_fields,
)
from shared.errors import BundleError

Int16Array = npt.NDArray[np.int16]
Int32Array = npt.NDArray[np.int32]

INPUT_LIMIT: Final = 127
PAST_TAPS: Final = 9
_MOST_UNITS: Final = 1024
_MOST_SHIFT: Final = 30


@dataclass(frozen=True, slots=True, eq=False)
class GroupNetwork:
    """past: int16 [9 * C_past, hidden], tap by tap (row by row), in it channel by channel. own:
    int16 [phases, taps * C, hidden], taps a square window of an odd side. bias: int32 [phases,
    hidden]. middle: int16 [hidden, width]; middle_bias: int32 [width]. out: int16 [width, 2 C];
    out_bias: int32 [2 C]. shifts: int32 [3].

    Raises BundleError ``bad_contexts`` on arrays that fit no network, or break the bound.
    """

    past: Int16Array
    own: Int16Array
    bias: Int32Array
    middle: Int16Array
    middle_bias: Int32Array
    out: Int16Array
    out_bias: Int32Array
    shifts: Int32Array

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_exactness()

    @property
    def channels(self) -> int:
        """Of the plane."""
        return int(self.out.shape[1]) // 2

    @property
    def radius(self) -> int:
        """Positions that the window reaches to every side."""
        return math.isqrt(int(self.own.shape[1]) // self.channels) // 2

    def to_arrays(self, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
        """Named arrays for contexts.npz; :meth:`from_arrays` is the inverse."""
        return named_fields(self, f"{prefix}.")

    @classmethod
    def from_arrays(
        cls, prefix: str, arrays: Mapping[str, npt.NDArray[np.generic]]
    ) -> GroupNetwork:
        """Read what :meth:`to_arrays` wrote. Raises BundleError ``bad_contexts``."""
        return cls(**read_fields(cls, f"{prefix}.", arrays))

    def _check_shapes(self) -> None:
        if self.own.ndim != 3 or self.out.ndim != 2 or self.past.ndim != 2:
            raise BundleError("bad_contexts", "past and out must have two axes, own three")
        phases, taps, hidden = self.own.shape
        width, outputs = self.out.shape
        channels = outputs // 2
        if not (1 <= hidden <= _MOST_UNITS and 1 <= width <= _MOST_UNITS) or phases < 1:
            raise BundleError("bad_contexts", f"layers of {hidden} and {width} are out of range")
        if outputs != 2 * channels or not channels or taps % channels:
            raise BundleError("bad_contexts", "own and out are not of the same channels")
        side = math.isqrt(taps // channels)
        if side * side * channels != taps or side % 2 == 0 or side > 9:
            raise BundleError("bad_contexts", "the window is no small square of an odd side")
        if self.past.shape[0] % PAST_TAPS:
            raise BundleError("bad_contexts", "past has no whole number of channels")
        wanted: tuple[tuple[str, type[np.integer[Any]], tuple[int, ...]], ...] = (
            ("past", np.int16, (self.past.shape[0], hidden)),
            ("own", np.int16, (phases, taps, hidden)),
            ("bias", np.int32, (phases, hidden)),
            ("middle", np.int16, (hidden, width)),
            ("middle_bias", np.int32, (width,)),
            ("out", np.int16, (width, outputs)),
            ("out_bias", np.int32, (outputs,)),
            ("shifts", np.int32, (3,)),
        )
        for name, dtype, shape in wanted:
            check_integers(name, getattr(self, name), dtype, shape)
        if ((self.shifts < 0) | (self.shifts > _MOST_SHIFT)).any():
            raise BundleError("bad_contexts", "a shift is out of range")

    def _check_exactness(self) -> None:
        inputs = absolute(self.past).sum(0) + absolute(self.own).sum(1)
        bounds = (
            INPUT_LIMIT * inputs + absolute(self.bias),
            ACTIVATION_LIMIT * absolute(self.middle).sum(0) + absolute(self.middle_bias),
            ACTIVATION_LIMIT * absolute(self.out).sum(0) + absolute(self.out_bias),
        )
        for bound, shift in zip(bounds, self.shifts, strict=True):
            check_bound(bound, int(shift))
