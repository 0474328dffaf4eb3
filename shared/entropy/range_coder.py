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

WORD_BYTES = 4


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
        """The message: whole 32-bit words, little-endian; empty for no information."""
        return bytes(self._coder.get_compressed().astype("<u4").tobytes())


class BitDecoder:
    """Reads what :class:`BitEncoder` wrote, given the same probabilities in the same order.

    What it reads it writes again: a message that an encoder would not have written, byte for
    byte, is refused at the end. A forger can still say what an edge could have said, no more.
    """

    def __init__(self, payload: bytes) -> None:
        """Raises BitstreamError ``bad_payload`` unless ``payload`` is whole words."""
        if len(payload) % WORD_BYTES:
            raise BitstreamError("bad_payload", f"{len(payload)} bytes are no whole 32-bit words")
        words = np.frombuffer(payload, "<u4").astype(np.uint32)
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
