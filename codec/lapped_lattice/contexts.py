"""What both ends know of one picture of lattices with dead zones, and the odds of the next bits.

A plane's first depth is told as nested lattices tell it: whether a value is what is expected of it,
on which side it lies, how far. So is what a zero becomes, of which five values may come; of any
other value three are left, which are counted from zero outwards: whether it is the expected one,
else which of the other two. Expected is the value nearest to zero; in a predicted frame, of those
that are left, the one nearest to the reference's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from codec.exact import NumberArray
from codec.lapped_lattice.lattice import LappedPalette
from codec.lattice_palette.nested.contexts import NestedContexts
from codec.lattice_palette.nested.palette import RATIO, Integers
from codec.lattice_palette.nested.picture import Exchange, PictureNested
from codec.lattice_palette.nested.seen import Seen
from shared.errors import BitstreamError

SIGNED: Final = 8
"""Networks see signs of planes that begin among so many channels. Those of the others say nothing
about each other: networks see how large values are, which a few units could not tell from both
signs."""
MOST_APART: Final = 2
"""The largest of what a zero may become, and of what others may, counted from their least."""
OF_THREE: Final = 32
"""Recorded as how far away a value is that is one of three, and not the expected one."""
LAST: Final = 16
"""Added to how far away a value is recorded, where it could not be further."""


class LappedContexts(NestedContexts):
    """The contexts of the one chain."""

    palette: LappedPalette

    def _pictures(self) -> type[PictureNested]:
        return PictureLapped


class PictureLapped(PictureNested):
    """The known values of one picture."""

    @cached_property
    def _signed(self) -> frozenset[str]:
        specs = self._palette.specs
        begins = np.cumsum([0, *(spec.channels for spec in specs)])
        pairs = zip(specs, begins, strict=False)
        return frozenset(spec.name for spec, begin in pairs if begin < SIGNED)

    def _shown(self, plane: str, values: Integers) -> NumberArray:
        return self._bend(values if plane in self._signed else np.abs(values))

    def _told_apart(self, values: Integers, before: Integers | None) -> Integers:
        return values if before is None else _apart(values, before)

    def _told(
        self,
        name: str,
        seen: Seen,
        expected: Integers,
        before: Integers | None,
        goal: Integers | None,
        limits: Integers,
        exchange: Exchange,
    ) -> Integers:
        if before is None:
            return super()._told(name, seen, expected, before, goal, limits, exchange)
        zero = before == 0
        likely = _apart(expected, before)
        wanted = None if goal is None else _apart(goal, before)
        if self._recorder is not None and self._recorder.wants(name):
            assert wanted is not None
            assert seen.inputs is not None
            self._recorder(name, seen.inputs, seen.classes, *_recorded(wanted, likely, zero))
        odds = self._odds(name, seen)
        differs, above, more, further = odds.reshape(4, -1)
        flat = None if wanted is None else wanted.reshape(-1)
        found = likely.reshape(-1).copy()
        bits = self._exchanged(exchange, differs, None if flat is None else flat != found)
        rows = np.flatnonzero(bits)
        if len(rows):
            left = found[rows]
            part = _Differing(zero.reshape(-1)[rows], left, None if flat is None else flat[rows])
            upper = self._side(part, above[rows], exchange)
            found[rows] = np.where(part.zero, left, _other(left, upper))
            places = rows[part.zero]
            found[places] += self._distance(part, upper, more[places], further[places], exchange)
        told = found.reshape(before.shape)
        values = np.where(zero, told, np.sign(before) * (RATIO * np.abs(before) + told))
        if (np.abs(values) > limits).any():
            raise BitstreamError("bad_payload", "a value is beyond its channel's limit")
        return np.asarray(values, np.int32)

    def _side(
        self, part: _Differing, odds: npt.NDArray[np.uint16], exchange: Exchange
    ) -> npt.NDArray[np.bool_]:
        """On which side of the expected one a value is that was zero, where it may be on both; of
        three, which of the other two it is."""
        both = ~part.zero | (np.abs(part.likely) < MOST_APART)
        wanted = part.upper
        upper: npt.NDArray[np.bool_] = part.likely < 0
        upper[both] = (
            self._exchanged(exchange, odds[both], None if wanted is None else wanted[both]) != 0
        )
        return upper

    def _distance(
        self,
        part: _Differing,
        upper: npt.NDArray[np.bool_],
        more: npt.NDArray[np.uint16],
        further: npt.NDArray[np.uint16],
        exchange: Exchange,
    ) -> Integers:
        """How far values that were zero are from the expected ones, with signs."""
        zero = part.zero
        up = upper[zero]
        likely = part.likely[zero]
        most = MOST_APART + np.where(up, -likely, likely)
        goal = None if part.goal is None else np.abs(part.goal[zero] - likely)
        size, odds = np.ones(len(up), np.int32), more
        rest = np.flatnonzero(most > 1)
        while len(rest):
            wanted = None if goal is None else goal[rest] > size[rest]
            told = self._exchanged(exchange, odds[rest], wanted) != 0
            rest = rest[told]
            size[rest] += 1
            rest = rest[size[rest] < most[rest]]
            odds = further
        return np.where(up, size, -size).astype(np.int32)


@dataclass(frozen=True, slots=True, eq=False)
class _Differing:
    """Values that are not the expected ones: which were zero, what was expected of them, and where
    they are coded, what they are; all [n], as :func:`_apart` counts."""

    zero: npt.NDArray[np.bool_]
    likely: Integers
    goal: Integers | None

    @property
    def upper(self) -> npt.NDArray[np.bool_] | None:
        """See :meth:`PictureLapped._side`."""
        if self.goal is None:
            return None
        return _is_upper(self.goal, self.likely, self.zero)


def _apart(values: Integers, before: Integers) -> Integers:
    """Values as they are counted where ``before`` is known: from their least outwards; what was
    zero as it is."""
    return np.where(before == 0, values, np.abs(values) - RATIO * np.abs(before)).astype(np.int32)


def _other(likely: Integers, upper: npt.NDArray[np.bool_]) -> Integers:
    """Of 0, 1 and 2 without the likely one, the greater or the lesser."""
    greatest = np.where(likely == MOST_APART, 1, MOST_APART)
    least = np.where(likely == 0, 1, 0)
    return np.where(upper, greatest, least).astype(np.int32)


def _is_upper(
    values: Integers, likely: Integers, zero: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    of_three = values == np.where(likely == MOST_APART, 1, MOST_APART)
    return np.where(zero, values > likely, of_three)


def _recorded(
    values: Integers, likely: Integers, zero: npt.NDArray[np.bool_]
) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """See :class:`~codec.lattice_palette.nested.seen.Recorder`, :data:`OF_THREE`,
    :data:`LAST`."""
    upper, size = _is_upper(values, likely, zero), np.abs(values - likely)
    last = size == MOST_APART + np.where(upper, -likely, likely)
    of_zero = size + LAST * (last & (size > 0))
    away = np.where(zero, of_zero, OF_THREE * (size > 0))
    return away.astype(np.int32), upper
