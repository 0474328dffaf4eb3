"""The coders of format version 4: bits in groups; symbols as whether they are the likeliest.

A symbol whose table gives its likeliest symbol, the top, a half or more is coded as a bit, whether
it is another one, with the bits of its pass (:mod:`codec.entropy.groups`). If it is, it takes a
step of its own, with what its table leaves without the top. So do symbols of flatter tables, with
the whole table. The steps come after the bits, by place.
"""

from __future__ import annotations

import numpy as np

from codec.entropy.groups import decode_bits, encode_bits
from codec.entropy.range_coder import VERSION_4, RangeDecoder, RangeEncoder
from codec.entropy.tables import Bits, Probabilities, Symbols, SymbolTables, TableNumbers


class BitEncoder:
    """Bits, each with a probability of its own."""

    def __init__(self) -> None:
        self._coder = RangeEncoder(VERSION_4)

    def encode(self, bits: Bits, probabilities: Probabilities) -> None:
        """See :meth:`codec.entropy.BitWriter.encode`."""
        encode_bits(self._coder, bits, probabilities)

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
        return decode_bits(self._coder, probabilities)

    def finish(self) -> None:
        """See :meth:`codec.entropy.BitReader.finish`."""
        self._coder.finish()


class SymbolEncoder:
    """Symbols, each with one of the tables."""

    def __init__(self, tables: SymbolTables) -> None:
        self._coder, self._tables = RangeEncoder(VERSION_4), tables.version_4

    def encode(self, symbols: Symbols, tables: TableNumbers) -> None:
        """See :meth:`codec.entropy.SymbolWriter.encode`."""
        steps = self._tables
        sharp = steps.sharp.take(tables)
        other = (symbols != steps.top.take(tables))[sharp]
        encode_bits(self._coder, other.view(np.uint8), steps.others.take(tables[sharp]))
        alone = steps.flat.take(tables)
        alone[sharp] = other
        tables, symbols = tables[alone], symbols[alone]
        chosen = tables * steps.symbols + symbols
        starts, shares = steps.starts.take(chosen), steps.shares.take(chosen)
        self._coder.encode(starts.tolist(), shares.tolist(), steps.totals.take(tables).tolist())

    def payload(self) -> bytes:
        """See :meth:`codec.entropy.SymbolWriter.payload`."""
        return self._coder.payload()


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
        alone[sharp] = decode_bits(self._coder, steps.others.take(tables[sharp]))
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
