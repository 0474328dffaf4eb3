"""The coders of format version 3: a step for every bit and every symbol.

Probabilities have 24 bits. These messages were written with constriction's range coder before; the
bytes are the same.
"""

from __future__ import annotations

from itertools import repeat
from typing import Final

import numpy as np
import numpy.typing as npt

from codec.entropy.range_coder import VERSION_3, RangeDecoder, RangeEncoder
from codec.entropy.tables import (
    PROBABILITY_BITS,
    PROBABILITY_ONE,
    Bits,
    Probabilities,
    Symbols,
    SymbolTables,
    TableNumbers,
)

_ONE: Final = 1 << 24


class BitEncoder:
    """Bits, each with a probability of its own."""

    def __init__(self) -> None:
        self._coder = RangeEncoder(VERSION_3)

    def encode(self, bits: Bits, probabilities: Probabilities) -> None:
        """See :meth:`codec.entropy.BitWriter.encode`."""
        splits = _splits(probabilities)
        starts = np.where(bits, splits, 0)
        shares = np.where(bits, _ONE - splits, splits)
        self._coder.encode(starts.tolist(), shares.tolist(), repeat(_ONE))

    def payload(self) -> bytes:
        """See :meth:`codec.entropy.BitWriter.payload`."""
        return self._coder.payload()


class BitDecoder:
    """Reads what :class:`BitEncoder` wrote."""

    def __init__(self, payload: bytes) -> None:
        """payload: any bytes."""
        self._coder = RangeDecoder(VERSION_3, payload)

    def decode(self, probabilities: Probabilities) -> Bits:
        """See :meth:`codec.entropy.BitReader.decode`."""
        return np.array(self._coder.bits(_splits(probabilities).tolist(), _ONE), np.uint8)

    def finish(self) -> None:
        """See :meth:`codec.entropy.BitReader.finish`."""
        self._coder.finish()


class SymbolEncoder:
    """Symbols, each with one of the tables; in a pass by table, then by place."""

    def __init__(self, tables: SymbolTables) -> None:
        self._coder, self._tables = RangeEncoder(VERSION_3), tables.version_3

    def encode(self, symbols: Symbols, tables: TableNumbers) -> None:
        """See :meth:`codec.entropy.SymbolWriter.encode`."""
        order = _order(tables)
        symbols, tables, steps = symbols[order], tables[order], self._tables
        starts, shares = steps.starts[tables, symbols], steps.shares[tables, symbols]
        self._coder.encode(starts.tolist(), shares.tolist(), repeat(_ONE))

    def payload(self) -> bytes:
        """See :meth:`codec.entropy.SymbolWriter.payload`."""
        return self._coder.payload()


class SymbolDecoder:
    """Reads what :class:`SymbolEncoder` wrote."""

    def __init__(self, payload: bytes, tables: SymbolTables) -> None:
        """payload: any bytes."""
        self._coder, self._tables = RangeDecoder(VERSION_3, payload), tables.version_3

    def decode(self, tables: TableNumbers) -> Symbols:
        """See :meth:`codec.entropy.SymbolReader.decode`."""
        order, lists = _order(tables), self._tables.lists
        found = self._coder.symbols(map(lists.__getitem__, tables[order].tolist()))
        symbols = np.empty(len(tables), np.int32)
        symbols[order] = found
        return symbols

    def finish(self) -> None:
        """See :meth:`codec.entropy.SymbolReader.finish`."""
        self._coder.finish()


def _splits(probabilities: Probabilities) -> npt.NDArray[np.int64]:
    """Where a 1's share of 2**24 begins: one part for each bit, and the rest by probability,
    rounded down. Products have 40 bits."""
    zero = PROBABILITY_ONE - probabilities.astype(np.int64)
    splits: npt.NDArray[np.int64] = (zero * (_ONE - 2) >> PROBABILITY_BITS) + 1
    return splits


def _order(tables: TableNumbers) -> npt.NDArray[np.intp]:
    return np.argsort(tables.astype(np.uint16), kind="stable")
