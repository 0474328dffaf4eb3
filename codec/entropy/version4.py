"""The coders of format version 4: bits in groups; symbols as whether they are the likeliest.

A symbol whose table gives its likeliest symbol, the top, a half or more is coded as a bit, whether
it is another one, with the bits of its pass (:mod:`codec.entropy.groups`). If it is, it takes a
step of its own, with what its table leaves without the top. So do symbols of flatter tables, with
the whole table. The steps come after the bits, by place.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from codec.entropy.groups import decode_bits, encode_bits, ranks_of
from codec.entropy.range_coder import VERSION_4, RangeDecoder, RangeEncoder
from codec.entropy.tables import (
    PROBABILITY_ONE,
    Bits,
    Probabilities,
    Symbols,
    SymbolTables,
    TableNumbers,
)


class BitEncoder:
    """Bits, each with a probability of its own."""

    def __init__(self) -> None:
        self._coder = RangeEncoder(VERSION_4)

    def encode(self, bits: Bits, probabilities: Probabilities) -> None:
        """See :meth:`codec.entropy.BitWriter.encode`."""
        encode_bits(self._coder, bits ^ _flipped(probabilities), ranks_of(probabilities))

    def payload(self) -> bytes:
        """See :meth:`codec.entropy.BitWriter.payload`."""
        return self._coder.payload()


class BitDecoder:
    """Reads what :class:`BitEncoder` wrote."""

    def __init__(self, payload: bytes) -> None:
        """payload: any bytes."""
        self._coder = RangeDecoder(VERSION_4, payload)

    def decode(self, probabilities: Probabilities) -> Bits:
        """See :meth:`codec.entropy.BitReader.decode`."""
        found = decode_bits(self._coder, ranks_of(probabilities))
        return found ^ _flipped(probabilities)

    def finish(self) -> None:
        """See :meth:`codec.entropy.BitReader.finish`."""
        self._coder.finish()


class SymbolEncoder:
    """Symbols, each with one of the tables."""

    def __init__(self, tables: SymbolTables) -> None:
        self._coder, self._tables = RangeEncoder(VERSION_4), tables.version_4
        self._waiting: list[tuple[Symbols, TableNumbers]] = []

    def encode(self, symbols: Symbols, tables: TableNumbers) -> None:
        """See :meth:`codec.entropy.SymbolWriter.encode`. Arrays are read when the payload is."""
        self._waiting.append((symbols, tables))

    def payload(self) -> bytes:
        """See :meth:`codec.entropy.SymbolWriter.payload`."""
        if self._waiting:
            self._code(self._waiting)
            self._waiting = []
        return self._coder.payload()

    def _code(self, passes: Sequence[tuple[Symbols, TableNumbers]]) -> None:
        """The shares of all passes at once: calls of numpy are what small passes would cost."""
        steps = self._tables
        symbols = np.concatenate([symbols for symbols, _ in passes])
        tables = np.concatenate([tables for _, tables in passes])
        sharp = steps.sharp.take(tables)
        other = symbols != steps.top.take(tables)
        flags, ranks = other[sharp].view(np.uint8), steps.ranks.take(tables[sharp])
        alone = (sharp & other) | steps.flat.take(tables)
        upto = np.cumsum([len(tables) for _, tables in passes])
        sharp_upto = np.append(0, sharp.cumsum())[upto].tolist()
        alone_upto = np.append(0, alone.cumsum())[upto].tolist()
        tables = tables[alone]
        chosen = tables * steps.symbols + symbols[alone]
        starts, shares = steps.starts.take(chosen).tolist(), steps.shares.take(chosen).tolist()
        totals = steps.totals.take(tables).tolist()
        first, begin = 0, 0
        for last, end in zip(sharp_upto, alone_upto, strict=True):
            encode_bits(self._coder, flags[first:last], ranks[first:last])
            self._coder.encode(starts[begin:end], shares[begin:end], totals[begin:end])
            first, begin = last, end


class SymbolDecoder:
    """Reads what :class:`SymbolEncoder` wrote."""

    def __init__(self, payload: bytes, tables: SymbolTables) -> None:
        """payload: any bytes."""
        self._coder, self._tables = RangeDecoder(VERSION_4, payload), tables.version_4

    def decode(self, tables: TableNumbers) -> Symbols:
        """See :meth:`codec.entropy.SymbolReader.decode`."""
        steps = self._tables
        sharp = steps.sharp.take(tables)
        alone = steps.flat.take(tables)
        alone[sharp] = decode_bits(self._coder, steps.ranks.take(tables[sharp]))
        symbols = steps.top.take(tables)
        numbers, lists = tables[alone], steps.lists
        steps_of = [lists[number] for number in numbers.tolist()]
        found = np.array(self._coder.symbols(steps_of), np.int32)
        # Tables without the top count on from it.
        found += found >= steps.skipped.take(numbers)
        symbols[alone] = found
        return symbols

    def finish(self) -> None:
        """See :meth:`codec.entropy.SymbolReader.finish`."""
        self._coder.finish()


def _flipped(probabilities: Probabilities) -> Bits:
    """1 where a 1 is likelier than a 0."""
    return (probabilities > PROBABILITY_ONE // 2).view(np.uint8)
