"""The context network of one step of the stream: integers in, log odds of bits out.

    hidden = clip((inputs . W_enter + b_enter) >> shifts[0], 0, 255)
    middle = clip((hidden . W_middle + b_middle) >> shifts[1], 0, 255)
    odds   = clip(((middle . W_out + b_out) >> shifts[2]) + table, -256, 256)

The table has what a channel's own surroundings say of it, by the class that they are of; networks
of older bundles have none: a few units that all channels share can't say it of each.

Four outputs a channel, log odds in 1/32: that the value is not what is expected of it; that it is
above that; that it is more than one away; that it is further away than that, for every step more.
Every sum of absolute terms stays below 2**24: float32 arithmetic in any order is exact, and all
machines agree. A network that breaks the bound is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from codec.exact import (
    ACTIVATION_LIMIT,
    NumberArray,
    absolute,
    activated,
    check_bound,
    check_integers,
    named_fields,
    read_fields,
    shifted,
)
from codec.lattice_palette.nested.surroundings import CLASSES
from shared.errors import BundleError

Int16Array = npt.NDArray[np.int16]
Int32Array = npt.NDArray[np.int32]

INPUT_LIMIT: Final = 127
ODDS_UNIT: Final = 32
ODDS_LIMIT: Final = 256
"""Log odds are integers in 1/32, within -8..8."""
OUTPUTS: Final = 4
"""A channel: differs, above, more, further."""
_MOST_UNITS: Final = 1024
_MOST_INPUTS: Final = 1 << 13
_MOST_SHIFT: Final = 30


@dataclass(frozen=True, slots=True, eq=False)
class BitNetwork:
    """enter: int16 [inputs, hidden]; enter_bias: int32 [hidden]. middle: int16 [hidden, width];
    middle_bias: int32 [width]. out: int16 [width, 4 C], output by output, in it channel by channel;
    out_bias: int32 [4 C]. shifts: int32 [3]. table: int16 [4, 45, C], in 1/32, within -8..8; or
    None.

    Raises BundleError ``bad_contexts`` on arrays that fit no network, or break the bound.
    """

    enter: Int16Array
    enter_bias: Int32Array
    middle: Int16Array
    middle_bias: Int32Array
    out: Int16Array
    out_bias: Int32Array
    shifts: Int32Array
    table: Int16Array | None = None

    def __post_init__(self) -> None:
        if self.enter.ndim != 2 or self.middle.ndim != 2 or self.out.ndim != 2:
            raise BundleError("bad_contexts", "the weights of a network of bits have two axes")
        (inputs, hidden), (width, outputs) = self.enter.shape, self.out.shape
        units = (hidden, width)
        if not all(1 <= one <= _MOST_UNITS for one in units) or not 1 <= inputs <= _MOST_INPUTS:
            raise BundleError("bad_contexts", f"layers of {inputs}, {units} are out of range")
        if not outputs or outputs % OUTPUTS:
            raise BundleError("bad_contexts", f"{outputs} outputs are no {OUTPUTS} a channel")
        wanted: tuple[tuple[str, type[np.integer[Any]], tuple[int, ...]], ...] = (
            ("enter", np.int16, (inputs, hidden)),
            ("enter_bias", np.int32, (hidden,)),
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
        if self.table is not None:
            check_integers("table", self.table, np.int16, (OUTPUTS, CLASSES, self.channels))
            if np.abs(self.table.astype(int)).max() > ODDS_LIMIT:
                raise BundleError("bad_contexts", f"a table's odds are beyond {ODDS_LIMIT}")
        bounds = (
            INPUT_LIMIT * absolute(self.enter).sum(0) + absolute(self.enter_bias),
            ACTIVATION_LIMIT * absolute(self.middle).sum(0) + absolute(self.middle_bias),
            ACTIVATION_LIMIT * absolute(self.out).sum(0) + absolute(self.out_bias),
        )
        for bound, shift in zip(bounds, self.shifts, strict=True):
            check_bound(bound, int(shift))

    @property
    def inputs(self) -> int:
        """How many integers it looks at."""
        return int(self.enter.shape[0])

    @property
    def channels(self) -> int:
        """Of whose values it gives odds."""
        return int(self.out.shape[1]) // OUTPUTS

    def to_arrays(self, prefix: str) -> dict[str, npt.NDArray[np.generic]]:
        """Named arrays for contexts.npz; :meth:`from_arrays` is the inverse."""
        return named_fields(self, f"{prefix}.")

    @classmethod
    def from_arrays(cls, prefix: str, arrays: Mapping[str, npt.NDArray[np.generic]]) -> BitNetwork:
        """Read what :meth:`to_arrays` wrote. Raises BundleError ``bad_contexts``."""
        return cls(**read_fields(cls, f"{prefix}.", arrays))


class Evaluator:
    """A network in the type of number that it is evaluated in: float32 (fast), float64 or int64."""

    def __init__(self, network: BitNetwork, dtype: type[np.generic] = np.float32) -> None:
        self._arrays = tuple(
            (getattr(network, name).astype(dtype), getattr(network, bias).astype(dtype), int(shift))
            for (name, bias), shift in zip(
                (("enter", "enter_bias"), ("middle", "middle_bias"), ("out", "out_bias")),
                network.shifts,
                strict=True,
            )
        )
        self.channels, self.inputs = network.channels, network.inputs
        self._table = (
            None if network.table is None else network.table.astype(dtype).reshape(OUTPUTS, -1)
        )
        self._each = np.arange(self.channels)

    @property
    def enter(self) -> NumberArray:
        """The first layer's weights [inputs, hidden]."""
        weights: NumberArray = self._arrays[0][0]
        return weights

    @property
    def classifies(self) -> bool:
        """Whether it has a table."""
        return self._table is not None

    def __call__(
        self, inputs: NumberArray, classes: npt.NDArray[np.intp] | None
    ) -> npt.NDArray[np.intp]:
        """inputs: integers [n, inputs]; classes: 0 to 44 [n, C], where it :attr:`classifies` ->
        odds + 256, from 0 to 512: intp [4, n, C]."""
        return self.of_sums(inputs @ self.enter, classes)

    def of_sums(
        self, sums: NumberArray, classes: npt.NDArray[np.intp] | None
    ) -> npt.NDArray[np.intp]:
        """The same of inputs . :attr:`enter` [n, hidden], which may be overwritten: whoever knows
        that many inputs are 0, or the same for several steps, has that for less."""
        _, bias, shift = self._arrays[0]
        sums += bias
        x = activated(sums, shift) @ self._arrays[1][0]
        _, bias, shift = self._arrays[1]
        x += bias
        x = activated(x, shift) @ self._arrays[2][0]
        _, bias, shift = self._arrays[2]
        x += bias
        odds = shifted(x, shift)
        odds = odds.reshape(len(odds), OUTPUTS, self.channels).transpose(1, 0, 2)
        if self._table is not None:
            assert classes is not None
            told: NumberArray = self._table.take(classes * self.channels + self._each, axis=1)
            told += odds
            odds = told
        places = np.clip(odds, -ODDS_LIMIT, ODDS_LIMIT, out=odds).astype(np.intp)
        places += ODDS_LIMIT
        return places


def odds_table() -> npt.NDArray[np.uint16]:
    """P(bit = 1) * 2**16, at least 1, of log odds -8 to 8 in 1/32: uint16 [513].

    For making bundles: ends of the stream read it from there, so that no machine's ``exp`` counts.
    """
    odds = np.arange(-ODDS_LIMIT, ODDS_LIMIT + 1) / ODDS_UNIT
    chance = np.round(65536 / (1 + np.exp(-odds)))
    return np.asarray(chance.clip(1, 65535), np.uint16)
