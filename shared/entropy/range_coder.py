"""Bits with given integer probabilities, to bytes and back, by constriction's range coder.

A probability is an integer numerator over 2**16. Handing it to constriction as a float64 is
exact (a dyadic fraction), and so is constriction's own conversion to 24 bits of fixed point: no
rounding, hence no difference between machines.
"""

from __future__ import annotations

import constriction
import numpy as np
import numpy.typing as npt

from shared.entropy.probability import PROBABILITY_ONE
from shared.errors import BitstreamError

Bits = npt.NDArray[np.uint8]
Probabilities = npt.NDArray[np.uint16]

_WORD_BYTES = 4
_STATE_BYTES = 8
"""The coder's interval: two words of 32 bits, after those that are settled."""


def _model() -> object:
    return constriction.stream.model.Bernoulli(perfect=False)


def _fractions(probabilities: Probabilities) -> npt.NDArray[np.float64]:
    return probabilities.astype(np.float64) / PROBABILITY_ONE


class BitEncoder:
    """Collects bits; :meth:`payload` is the message so far."""

    def __init__(self) -> None:
        self._coder = constriction.stream.queue.RangeEncoder()
        self._model = _model()

    def encode(self, bits: Bits, probabilities: Probabilities) -> None:
        """Append bits (uint8 [n], 0 or 1) with P(1) * 2**16 (uint16 [n], at least 1) each."""
        if len(bits):
            self._coder.encode(bits.astype(np.int32), self._model, _fractions(probabilities))

    def payload(self) -> bytes:
        """The message: the fewest bytes after which the decoder may read zeros for ever."""
        words: bytes = self._coder.get_compressed().astype(">u4").tobytes()
        settled, (lower, size) = self._coder.pos()
        kept = _WORD_BYTES * int(settled)
        # The coder's own end lies inside its interval; it says where the interval lies, in case
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


class BitDecoder:
    """Reads what :class:`BitEncoder` wrote, given the same probabilities in the same order.

    What it reads it writes again: a message that an encoder would not have written, byte for
    byte, is refused at the end. A forger can still say what an edge could have said, no more.
    """

    def __init__(self, payload: bytes) -> None:
        """payload: any bytes; what they lack to whole words, and then to come, is zeros."""
        zeros = bytes(-len(payload) % _WORD_BYTES + _STATE_BYTES)
        words = np.frombuffer(payload + zeros, ">u4").astype(np.uint32)
        self._coder = constriction.stream.queue.RangeDecoder(words)
        self._model = _model()
        self._payload = payload
        self._again = BitEncoder()

    def decode(self, probabilities: Probabilities) -> Bits:
        """The next bits: uint8 [n]. Raises BitstreamError ``bad_payload`` on invalid data."""
        if not len(probabilities):
            return np.zeros(0, np.uint8)
        try:
            symbols = self._coder.decode(self._model, _fractions(probabilities))
        except (AssertionError, ValueError, RuntimeError) as error:
            raise BitstreamError("bad_payload", f"the range coder rejects it: {error}") from None
        bits = np.asarray(symbols, np.uint8)
        self._again.encode(bits, probabilities)
        return bits

    def finish(self) -> None:
        """Raise BitstreamError ``bad_payload`` unless the message is exactly what was read."""
        if self._again.payload() != self._payload:
            raise BitstreamError("bad_payload", "no encoder writes such a layer")
