"""Entropy coding that any two machines agree on: the coders of each version of the container.

Coders collect and give back symbols in passes: probabilities may depend on what was decoded in the
passes before. A version of the container's format says which coder its messages are written with.
"""

from __future__ import annotations

from typing import Protocol

from codec.entropy import version3, version4
from codec.entropy.tables import (
    PROBABILITY_ONE,
    Bits,
    Probabilities,
    Symbols,
    SymbolTables,
    TableNumbers,
)

__all__ = [
    "PROBABILITY_ONE",
    "BitReader",
    "BitWriter",
    "SymbolReader",
    "SymbolTables",
    "SymbolWriter",
    "bit_decoder",
    "bit_encoder",
    "symbol_decoder",
    "symbol_encoder",
]


class BitWriter(Protocol):
    """Collects bits to a message."""

    def encode(self, bits: Bits, probabilities: Probabilities, /) -> None:
        """Append bits (uint8 [n], 0 or 1) with P(1) * 2**16 (uint16 [n], at least 1) each."""

    def payload(self) -> bytes:
        """The message so far; more can be appended."""


class BitReader(Protocol):
    """Reads what a :class:`BitWriter` wrote, given the same probabilities in the same passes."""

    def decode(self, probabilities: Probabilities, /) -> Bits:
        """The next bits: uint8 [n]. Raises BitstreamError ``bad_payload`` on invalid data."""

    def finish(self) -> None:
        """Raise BitstreamError ``bad_payload`` unless the message is exactly what was read."""


class SymbolWriter(Protocol):
    """Collects symbols to a message."""

    def encode(self, symbols: Symbols, tables: TableNumbers, /) -> None:
        """Append symbols (int32 [n]), each with the table of that number (intp [n])."""

    def payload(self) -> bytes:
        """The message so far; more can be appended."""


class SymbolReader(Protocol):
    """Reads what a :class:`SymbolWriter` wrote, given the same tables in the same passes."""

    def decode(self, tables: TableNumbers, /) -> Symbols:
        """The next symbols: int32 [n]. Raises BitstreamError ``bad_payload`` on invalid data."""

    def finish(self) -> None:
        """Raise BitstreamError ``bad_payload`` unless the message is exactly what was read."""


def bit_encoder(version: int) -> BitWriter:
    """An encoder of bits, as messages of that version of the container have them."""
    return version3.BitEncoder() if _is_old(version) else version4.BitEncoder()


def bit_decoder(version: int, payload: bytes) -> BitReader:
    """A decoder of a message of bits (any bytes) of that version of the container."""
    return version3.BitDecoder(payload) if _is_old(version) else version4.BitDecoder(payload)


def symbol_encoder(version: int, tables: SymbolTables) -> SymbolWriter:
    """An encoder of symbols, as messages of that version of the container have them."""
    return version3.SymbolEncoder(tables) if _is_old(version) else version4.SymbolEncoder(tables)


def symbol_decoder(version: int, payload: bytes, tables: SymbolTables) -> SymbolReader:
    """A decoder of a message of symbols (any bytes) of that version of the container."""
    if _is_old(version):
        return version3.SymbolDecoder(payload, tables)
    return version4.SymbolDecoder(payload, tables)


def _is_old(version: int) -> bool:
    if version not in (3, 4):
        raise ValueError(f"there is no coder for version {version} of the container")
    return version == 3
