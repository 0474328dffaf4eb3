"""Messages of version 4 stay as they are: what was written once is read for ever."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from codec.entropy import SymbolTables, bit_decoder, bit_encoder, symbol_decoder, symbol_encoder
from tests.support.entropy import TOTAL, Pass, read, written


def numbers(seed: int, size: int, below: int) -> np.ndarray:
    """The same on every machine and with every numpy: a linear congruential generator's."""
    found, state = [], seed
    for _ in range(size):
        state = (state * 6364136223846793005 + 1442695040888963407) % 2**64
        found.append((state >> 33) % below)
    return np.array(found, np.int64)


def passes_of_bits(kind: str) -> list[Pass]:
    passes = []
    for seed, size in enumerate((3, 40, 700, 0, 64, 2500)):
        spread = {"any": 65535, "certain": 900, "even": 8000}[kind]
        chances = 1 + numbers(seed, size, spread) + (28000 if kind == "even" else 0)
        bits = numbers(seed + 50, size, 65536) < chances
        flip = numbers(seed + 90, size, 2) == 1
        chances = np.where(flip, 65536 - chances, chances).astype(np.uint16)
        passes.append(((bits ^ flip).astype(np.uint8), chances))
    return passes


def tables_and_passes() -> tuple[SymbolTables, list[Pass]]:
    """Tables whose top has from a tenth to nearly all, and symbols of them."""
    symbols, rows = 21, []
    for row in range(12):
        counts = 1 + numbers(row, symbols, 1 + TOTAL // (symbols << row))
        counts[row] += TOTAL - counts.sum()
        rows.append(counts)
    tables = SymbolTables(np.array(rows, np.int32))
    ends, passes = tables.counts.cumsum(1), []
    for seed, size in enumerate((1, 30, 900, 0, 2000)):
        chosen = numbers(seed + 7, size, len(rows)).astype(np.intp)
        slots = numbers(seed + 70, size, TOTAL)
        found = [np.searchsorted(ends[t], s, "right") for t, s in zip(chosen, slots, strict=True)]
        passes.append((np.array(found, np.int32), chosen))
    return tables, passes


@pytest.mark.parametrize(
    ("kind", "size", "digest"),
    [
        ("any", 304, "ca4fa40bf27bbe29"),
        ("certain", 27, "51d8b063f54b251c"),
        ("even", 413, "a1582aee2d1f62ab"),
    ],
)
def test_bits_have_these_bytes(kind: str, size: int, digest: str) -> None:
    passes = passes_of_bits(kind)
    payload = written(bit_encoder(4), passes)
    read(bit_decoder(4, payload), passes)
    assert (len(payload), hashlib.sha256(payload).hexdigest()[:16]) == (size, digest)


def test_symbols_have_these_bytes() -> None:
    tables, passes = tables_and_passes()
    payload = written(symbol_encoder(4, tables), passes)
    read(symbol_decoder(4, payload, tables), passes)
    assert (len(payload), hashlib.sha256(payload).hexdigest()[:16]) == (210, "43db288f122dd8b3")


def test_small_messages_have_these_bytes() -> None:
    """By hand: 3/4 of 2**56 is where a likelier 1's share ends, and so on."""
    even = np.full(10, 1 << 15, np.uint16)
    bits = np.array([1, 0, 1, 1, 0, 0, 1, 0, 1, 1], np.uint8)
    # Two single bits, then a byte: 10 | 11001011, of 2**20 shares each, in 16 bits.
    assert written(bit_encoder(4), [(bits, even)]).hex() == "b2c0"
    quarter = np.array([1 << 14], np.uint16)
    assert written(bit_encoder(4), [(np.array([1], np.uint8), quarter)]).hex() == "c0"
    assert written(bit_encoder(4), [(np.array([0], np.uint8), quarter)]).hex() == "00"
    assert written(bit_encoder(4), []) == b""
