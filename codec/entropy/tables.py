"""Distributions that symbols are coded with: integers, so that any two machines have the same."""

from __future__ import annotations

from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from shared.errors import BundleError

PROBABILITY_BITS: Final = 16
PROBABILITY_ONE: Final = 1 << PROBABILITY_BITS
"""The denominator: a probability is an integer numerator over it, from 1 up."""
TABLE_BITS: Final = 20
"""Tables' sums are powers of two, at most 2**20."""

Bits = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.uint16]
Symbols = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int32]
TableNumbers = npt.NDArray[np.intp]
Shares = npt.NDArray[np.int64]

_MOST_SYMBOLS: Final = 1 << 10
_MOST_TABLES: Final = 1 << 12
_PRECISION_3: Final = 24


class SymbolTables:
    """Distributions that symbols are coded with, by number.

    counts: int32 [tables, symbols], at least 1, every row's sum the same power of two up to 2**20.
    Raises BundleError ``bad_contexts`` on others.
    """

    def __init__(self, counts: Counts) -> None:
        total = int(counts[0].sum()) if counts.ndim == 2 and counts.size else 0
        if (
            counts.dtype != np.int32
            or not 2 <= total <= 1 << TABLE_BITS
            or total & (total - 1)
            or len(counts) > _MOST_TABLES
            or counts.shape[1] > _MOST_SYMBOLS
            or counts.min() < 1
            or (counts.sum(1, dtype=np.int64) != total).any()
        ):
            raise BundleError(
                "bad_contexts",
                "tables of symbols must be int32 [tables, symbols], at least 1, and sum to the "
                f"same power of two, at most {1 << TABLE_BITS}",
            )
        self.counts = counts
        self._total = total

    def __len__(self) -> int:
        return len(self.counts)

    @cached_property
    def version_3(self) -> Steps:
        """As messages of version 3 have them: starts with 24 bits.

        Every symbol has a share of one, and the rest is shared out by cumulative probabilities that
        are rounded down; products have 44 bits at most.
        """
        symbols = self.counts.shape[1]
        rest = (1 << _PRECISION_3) - symbols
        ends = self.counts.cumsum(1, np.int64) * rest // self._total + np.arange(1, symbols + 1)
        starts = np.zeros_like(ends)
        starts[:, 1:] = ends[:, :-1]
        return Steps(starts, ends)

    @cached_property
    def version_4(self) -> SharpSteps:
        """As messages of version 4 have them: the counts themselves."""
        return SharpSteps(self.counts.astype(np.int64), self._total)


class Steps:
    """Where the shares of symbols' steps are: arrays for encoding, lists for decoding."""

    def __init__(self, starts: Shares, ends: Shares) -> None:
        """starts, ends: int64 [tables, symbols]."""
        self.starts, self.shares = starts, ends - starts
        self.lists: list[list[int]] = np.append(starts, ends[:, -1:], axis=1).tolist()


class SharpSteps:
    """Steps of symbols, those of sharp tables without the top, which is coded before.

    A table is sharp whose likeliest symbol, the top (the first of equals), has half the total or
    more; flat if it has less; neither if there is no other symbol.

    starts, shares: int32 [tables, symbols], of steps; totals: int32 [tables], theirs. lists: for
    decoding, starts and the total. top: the top. ranks: uint16, 2**15 less the chance of another
    symbol over 2**16, as :mod:`codec.entropy.groups` wants it. skipped: the symbol that steps leave
    out, or one past the last.
    """

    def __init__(self, counts: Shares, total: int) -> None:
        """counts: int64 [tables, symbols], each row's sum is ``total``."""
        rows = np.arange(len(counts))
        self.top: npt.NDArray[np.int32] = counts.argmax(1).astype(np.int32)
        most = counts[rows, self.top]
        self.sharp: npt.NDArray[np.bool_] = (2 * most >= total) & (most < total)
        self.flat: npt.NDArray[np.bool_] = 2 * most < total
        half, others = PROBABILITY_ONE // 2, (total - most) * PROBABILITY_ONE // total
        self.ranks: npt.NDArray[np.uint16] = (half - others.clip(1, half)).astype(np.uint16)
        self.skipped: npt.NDArray[np.int32] = np.where(self.sharp, self.top, counts.shape[1])
        shares = counts.copy()
        shares[rows[self.sharp], self.top[self.sharp]] = 0
        ends = shares.cumsum(1)
        self.starts, self.shares = (ends - shares).astype(np.int32), shares.astype(np.int32)
        self.totals: npt.NDArray[np.int32] = ends[:, -1].astype(np.int32)
        self.symbols = counts.shape[1]
        self.lists: list[list[int]] = [
            [0, *row[:top], *row[top + 1 :]] if sharp else [0, *row]
            for row, top, sharp in zip(
                ends.tolist(), self.top.tolist(), self.sharp.tolist(), strict=True
            )
        ]
