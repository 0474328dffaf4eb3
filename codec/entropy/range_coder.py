"""The range coder of format version 3.

A probability is an integer numerator over a power of two. Handing it to constriction as a float64
is exact (a dyadic fraction), and so is constriction's own conversion to 24 bits of fixed point:
no rounding that depends on the machine.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import constriction
import numpy as np
import numpy.typing as npt

from shared.errors import BitstreamError, BundleError

PROBABILITY_ONE: Final = 1 << 16
"""The denominator: a probability is an integer numerator over it, from 1 up."""


Bits = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.uint16]
Symbols = npt.NDArray[np.int32]
Counts = npt.NDArray[np.int32]

_MOST_COUNTS = 1 << 20
_MOST_SYMBOLS = 1 << 10
_MOST_TABLES = 1 << 12
_WORD_BYTES = 4
_STATE_BYTES = 8
"""The coder's interval: two words of 32 bits, after those that are settled."""


def _model() -> object:
    return constriction.stream.model.Bernoulli(perfect=False)


def _fractions(probabilities: Probabilities) -> npt.NDArray[np.float64]:
    return probabilities.astype(np.float64) / PROBABILITY_ONE


class _Encoder:
    """Collects symbols; :meth:`payload` is the message so far."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def payload(self) -> bytes:
        """The message: the fewest bytes after which the decoder may read zeros for ever."""
        words: bytes = self._coder.get_compressed().astype(">u4").tobytes()
        settled, (lower, size) = self._coder.pos()
        kept = _WORD_BYTES * int(settled)
        # The coder's own end lies inside its interval; that shows where the interval lies, in case
        # that its lower end was carried over into the settled words.
        inside = int.from_bytes(words[kept:].ljust(_STATE_BYTES, b"\0"), "big")
        lower = inside - (inside - int(lower)) % 2 ** (8 * _STATE_BYTES)
        return words[:kept] + _shortest(lower, min(lower + int(size), 2 ** (8 * _STATE_BYTES)))


def _shortest(lower: int, upper: int) -> bytes:
    """The shortest prefix of a number of eight bytes from ``lower`` to below ``upper``."""
    for length in range(_STATE_BYTES):
        step = 2 ** (8 * (_STATE_BYTES - length))
        value: int = -(-max(lower, 0) // step) * step
        if value < upper:
            return value.to_bytes(_STATE_BYTES, "big")[:length]
    return max(lower, 0).to_bytes(_STATE_BYTES, "big")


class BitEncoder(_Encoder):
    """Bits, each with a probability of its own."""

    def __init__(self) -> None:
        super().__init__()
        self._model = _model()

    def encode(self, bits: Bits, probabilities: Probabilities) -> None:
        """Append bits (uint8 [n], 0 or 1) with P(1) * 2**16 (uint16 [n], at least 1) each."""
        if len(bits):
            self._coder.encode(bits.astype(np.int32), self._model, _fractions(probabilities))


class _Decoder:
    """Reads what an encoder wrote, given the same probabilities in the same order.

    What it reads it writes again: a message that an encoder would not have written, byte for
    byte, is refused at the end. A forger can still send what an edge could have sent, no more.
    """

    def __init__(self, payload: bytes, again: _Encoder) -> None:
        """payload: any bytes; what they lack to whole words, and then to come, is zeros."""
        zeros = bytes(-len(payload) % _WORD_BYTES + _STATE_BYTES)
        words = np.frombuffer(payload + zeros, ">u4").astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)
        self._payload = payload
        self._written = again

    def finish(self) -> None:
        """Raise BitstreamError ``bad_payload`` unless the message is exactly what was read."""
        if self._written.payload() != self._payload:
            raise BitstreamError("bad_payload", "no encoder writes such a layer")

    def _decode(self, *model: object) -> npt.NDArray[np.int32]:
        try:
            return np.asarray(self._coder.decode(*model), np.int32)
        except (AssertionError, ValueError, RuntimeError) as error:
            raise BitstreamError("bad_payload", f"the range coder rejects it: {error}") from None


class BitDecoder(_Decoder):
    """Reads what :class:`BitEncoder` wrote."""

    def __init__(self, payload: bytes) -> None:
        """payload: any bytes."""
        self._again = BitEncoder()
        super().__init__(payload, self._again)
        self._model = _model()

    def decode(self, probabilities: Probabilities) -> Bits:
        """The next bits: uint8 [n]. Raises BitstreamError ``bad_payload`` on invalid data."""
        if not len(probabilities):
            return np.zeros(0, np.uint8)
        bits = self._decode(self._model, _fractions(probabilities)).astype(np.uint8)
        self._again.encode(bits, probabilities)
        return bits


class SymbolTables:
    """Distributions that symbols are coded with, by number.

    counts: int32 [tables, symbols], at least 1, every row's sum the same power of two up to 2**20.
    Raises BundleError ``bad_contexts`` on others.
    """

    def __init__(self, counts: Counts) -> None:
        total = int(counts[0].sum()) if counts.ndim == 2 and counts.size else 0
        if (
            counts.dtype != np.int32
            or not 2 <= total <= _MOST_COUNTS
            or total & (total - 1)
            or len(counts) > _MOST_TABLES
            or counts.shape[1] > _MOST_SYMBOLS
            or counts.min() < 1
            or (counts.sum(1, dtype=np.int64) != total).any()
        ):
            raise BundleError(
                "bad_contexts",
                "tables of symbols must be int32 [tables, symbols], at least 1, and sum to the "
                f"same power of two, at most {_MOST_COUNTS}",
            )
        self.counts = counts
        family = constriction.stream.model.Categorical
        self._models = [family(row / total, perfect=False) for row in counts.astype(np.float64)]

    def __len__(self) -> int:
        return len(self._models)

    def runs(
        self, tables: npt.NDArray[np.intp]
    ) -> tuple[npt.NDArray[np.intp], list[tuple[object, int, int]]]:
        """The order in which symbols of these tables (intp [n]) are coded: by table, then by
        place; and each table's model with the part of that order that is its own."""
        order = np.argsort(tables.astype(np.uint16), kind="stable")
        found = tables[order]
        cuts = [0, *(np.flatnonzero(np.diff(found)) + 1).tolist(), len(found)]
        return order, [
            (self._models[found[start]], start, stop) for start, stop in pairwise(cuts) if stop
        ]


class SymbolEncoder(_Encoder):
    """Symbols, each with one of the tables."""

    def __init__(self, tables: SymbolTables) -> None:
        super().__init__()
        self._tables = tables

    def encode(self, symbols: Symbols, tables: npt.NDArray[np.intp]) -> None:
        """Append symbols (int32 [n]), each with the table of that number (intp [n])."""
        order, runs = self._tables.runs(tables)
        sorted_symbols = symbols[order]
        for model, start, stop in runs:
            self._coder.encode(sorted_symbols[start:stop], model)


class SymbolDecoder(_Decoder):
    """Reads what :class:`SymbolEncoder` wrote."""

    def __init__(self, payload: bytes, tables: SymbolTables) -> None:
        """payload: any bytes."""
        self._again = SymbolEncoder(tables)
        super().__init__(payload, self._again)
        self._tables = tables

    def decode(self, tables: npt.NDArray[np.intp]) -> Symbols:
        """The next symbols: int32 [n]. Raises BitstreamError ``bad_payload`` on invalid data."""
        symbols = np.zeros(len(tables), np.int32)
        order, runs = self._tables.runs(tables)
        for model, start, stop in runs:
            symbols[order[start:stop]] = self._decode(model, stop - start)
        self._again.encode(symbols, tables)
        return symbols
