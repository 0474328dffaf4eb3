"""Symbols with one of several distributions each, to bytes and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.entropy import SymbolTables
from codec.entropy.range_coder import SymbolDecoder, SymbolEncoder
from shared.errors import BitstreamError, BundleError

TOTAL = 1 << 20


def random_tables(seed: int, count: int = 5, symbols: int = 30) -> SymbolTables:
    rng = np.random.default_rng(seed)
    counts = np.maximum(1, rng.dirichlet(np.full(symbols, 0.2), count) * TOTAL).astype(np.int32)
    counts[np.arange(count), counts.argmax(1)] += TOTAL - counts.sum(1)
    return SymbolTables(counts)


def random_message(seed: int, size: int, tables: SymbolTables) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(tables), size).astype(np.intp)
    symbols = [rng.choice(len(tables.counts[t]), p=tables.counts[t] / TOTAL) for t in chosen]
    return np.array(symbols, np.int32), chosen


@given(st.integers(0, 10**6), st.integers(0, 300), st.integers(1, 60))
def test_symbols_come_back_in_the_pieces_they_were_written_in(
    seed: int, size: int, piece: int
) -> None:
    tables = random_tables(seed)
    symbols, chosen = random_message(seed, size, tables)
    encoder = SymbolEncoder(tables)
    pieces = [slice(start, start + piece) for start in range(0, size, piece)]
    for here in pieces:
        encoder.encode(symbols[here], chosen[here])
    decoder = SymbolDecoder(encoder.payload(), tables)
    for here in pieces:
        np.testing.assert_array_equal(decoder.decode(chosen[here]), symbols[here])
    decoder.finish()


@given(st.integers(0, 10**6), st.sampled_from([1, 50, 1000]))
def test_the_coder_comes_within_two_bytes_of_the_entropy(seed: int, size: int) -> None:
    tables = random_tables(seed)
    symbols, chosen = random_message(seed, size, tables)
    encoder = SymbolEncoder(tables)
    encoder.encode(symbols, chosen)
    ideal = -np.log2(tables.counts[chosen, symbols] / TOTAL).sum()
    assert 8 * len(encoder.payload()) <= 1.001 * ideal + 16


def read_whole(payload: bytes, tables: SymbolTables, chosen: np.ndarray) -> None:
    decoder = SymbolDecoder(payload, tables)
    decoder.decode(chosen)
    decoder.finish()


def test_a_message_that_is_changed_or_not_used_up_is_refused() -> None:
    tables = random_tables(1)
    symbols, chosen = random_message(1, 500, tables)
    encoder = SymbolEncoder(tables)
    encoder.encode(symbols, chosen)
    payload = encoder.payload()
    early = SymbolDecoder(payload, tables)
    early.decode(chosen[:100])
    with pytest.raises(BitstreamError):
        early.finish()
    for forged in (payload[:-1], payload + b"\1", b""):
        with pytest.raises(BitstreamError):
            read_whole(forged, tables, chosen)


@pytest.mark.parametrize(
    "counts",
    [
        np.zeros((0, 4), np.int32),
        np.full((2, 4), 2, np.int64),
        np.array([[1, 3], [2, 1]], np.int32),
        np.array([[1, 2]], np.int32),
        np.array([[0, 4]], np.int32),
        np.array([[2**20, 2**20]], np.int32),
        np.ones((1, 2048), np.int32),
    ],
)
def test_what_is_no_distribution_is_refused(counts: np.ndarray) -> None:
    with pytest.raises(BundleError):
        SymbolTables(counts)
