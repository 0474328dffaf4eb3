"""What wrote messages of format version 3 at first: constriction's range coder.

Ours must give the same bytes, and refuse the same. Needs the package ``constriction``, which has
no wheel for every machine: who imports this skips without it.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import constriction
import numpy as np

from codec.entropy import PROBABILITY_ONE
from shared.errors import BitstreamError

_WORD_BYTES, _STATE_BYTES = 4, 8


class _Encoder:
    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()

    def payload(self) -> bytes:
        """The message: the fewest bytes after which the decoder may read zeros for ever."""
        words: bytes = self._coder.get_compressed().astype(">u4").tobytes()
        settled, (lower, size) = self._coder.pos()
        kept = _WORD_BYTES * int(settled)
        inside = int.from_bytes(words[kept:].ljust(_STATE_BYTES, b"\0"), "big")
        whole = 2 ** (8 * _STATE_BYTES)
        lower = inside - (inside - int(lower)) % whole
        return words[:kept] + _shortest(max(lower, 0), min(lower + int(size), whole))


def _shortest(lower: int, upper: int) -> bytes:
    for length in range(_STATE_BYTES):
        step = 2 ** (8 * (_STATE_BYTES - length))
        value = -(-lower // step) * step
        if value < upper:
            return value.to_bytes(_STATE_BYTES, "big")[:length]
    return lower.to_bytes(_STATE_BYTES, "big")


class _Decoder:
    def __init__(self, payload: bytes, again: Any) -> None:
        zeros = bytes(-len(payload) % _WORD_BYTES + _STATE_BYTES)
        words = np.frombuffer(payload + zeros, ">u4").astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)
        self._payload, self._again = payload, again

    def finish(self) -> None:
        """Encodes again, and compares."""
        if self._again.payload() != self._payload:
            raise BitstreamError("bad_payload", "no encoder writes such a layer")

    def _decode(self, *model: object) -> np.ndarray:
        try:
            return np.asarray(self._coder.decode(*model), np.int32)
        except (AssertionError, ValueError, RuntimeError) as error:
            raise BitstreamError("bad_payload", str(error)) from None


class BitEncoder(_Encoder):
    """As :func:`codec.entropy.bit_encoder` of version 3."""

    def encode(self, bits: np.ndarray, probabilities: np.ndarray) -> None:
        """Append bits."""
        if len(bits):
            self._coder.encode(bits.astype(np.int32), _bernoulli(), _fractions(probabilities))


class BitDecoder(_Decoder):
    """As :func:`codec.entropy.bit_decoder` of version 3."""

    def __init__(self, payload: bytes) -> None:
        super().__init__(payload, BitEncoder())

    def decode(self, probabilities: np.ndarray) -> np.ndarray:
        """The next bits."""
        if not len(probabilities):
            return np.zeros(0, np.uint8)
        bits = self._decode(_bernoulli(), _fractions(probabilities)).astype(np.uint8)
        self._again.encode(bits, probabilities)
        return bits


class SymbolEncoder(_Encoder):
    """As :func:`codec.entropy.symbol_encoder` of version 3; counts: int32 [tables, symbols]."""

    def __init__(self, counts: np.ndarray) -> None:
        super().__init__()
        self._models = _models(counts)

    def encode(self, symbols: np.ndarray, tables: np.ndarray) -> None:
        """Append symbols."""
        order, runs = _runs(tables)
        for number, start, stop in runs:
            self._coder.encode(symbols[order][start:stop], self._models[number])


class SymbolDecoder(_Decoder):
    """As :func:`codec.entropy.symbol_decoder` of version 3."""

    def __init__(self, payload: bytes, counts: np.ndarray) -> None:
        super().__init__(payload, SymbolEncoder(counts))
        self._models = _models(counts)

    def decode(self, tables: np.ndarray) -> np.ndarray:
        """The next symbols."""
        symbols = np.zeros(len(tables), np.int32)
        order, runs = _runs(tables)
        for number, start, stop in runs:
            symbols[order[start:stop]] = self._decode(self._models[number], stop - start)
        self._again.encode(symbols, tables)
        return symbols


def _bernoulli() -> object:
    return constriction.stream.model.Bernoulli(perfect=False)


def _fractions(probabilities: np.ndarray) -> np.ndarray:
    return probabilities.astype(np.float64) / PROBABILITY_ONE


def _models(counts: np.ndarray) -> list[object]:
    family, total = constriction.stream.model.Categorical, counts[0].sum()
    return [family(row / total, perfect=False) for row in counts.astype(np.float64)]


def _runs(tables: np.ndarray) -> tuple[np.ndarray, list[tuple[int, int, int]]]:
    order = np.argsort(tables, kind="stable")
    found = tables[order]
    cuts = [0, *(np.flatnonzero(np.diff(found)) + 1).tolist(), len(found)]
    return order, [(found[start], start, stop) for start, stop in pairwise(cuts) if stop > start]
