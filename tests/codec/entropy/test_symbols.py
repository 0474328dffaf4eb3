"""Symbols with one of several distributions each, to bytes and back, in both versions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.entropy import SymbolTables, symbol_decoder, symbol_encoder
from shared.errors import BitstreamError, BundleError
from tests.support.entropy import (
    TOTAL,
    VERSIONS,
    check_fate,
    forged,
    outcome,
    random_tables,
    read,
    symbols_and_tables,
    written,
)

SEEDS = st.integers(0, 10**6)


@pytest.mark.parametrize("version", VERSIONS)
@given(seed=SEEDS, size=st.integers(0, 300), pieces=st.integers(1, 6))
def test_symbols_come_back_in_the_pieces_they_were_written_in(
    version: int, seed: int, size: int, pieces: int
) -> None:
    tables = random_tables(seed)
    passes = symbols_and_tables(seed, size, tables, pieces)
    payload = written(symbol_encoder(version, tables), passes)
    read(symbol_decoder(version, payload, tables), passes)


@pytest.mark.parametrize("version", VERSIONS)
@given(seed=SEEDS, size=st.sampled_from([1, 5, 50, 1000]))
def test_the_coder_comes_within_two_bytes_of_the_entropy(
    version: int, seed: int, size: int
) -> None:
    tables = random_tables(seed)
    ((symbols, chosen),) = passes = symbols_and_tables(seed, size, tables, 1)
    ideal = -np.log2(tables.counts[chosen, symbols] / TOTAL).sum()
    assert 8 * len(written(symbol_encoder(version, tables), passes)) <= 1.002 * ideal + 12


@pytest.mark.parametrize("symbols", [1, 2, 3, 1000])
@pytest.mark.parametrize("total", [1 << 10, TOTAL])
def test_tables_of_any_size(symbols: int, total: int) -> None:
    tables = random_tables(3, symbols=symbols, total=total)
    passes = symbols_and_tables(4, 300, tables, 3)
    payload = written(symbol_encoder(4, tables), passes)
    read(symbol_decoder(4, payload, tables), passes)
    assert bool(payload) == (symbols > 1), "what is certain takes no bytes"


def test_a_single_symbol_of_a_thousand_is_two_bytes() -> None:
    """Ten bits' worth: a class, say."""
    tables = SymbolTables(np.ones((1, 1024), np.int32))
    for symbol in range(0, 1024, 41):
        passes = [(np.array([symbol], np.int32), np.zeros(1, np.intp))]
        payload = written(symbol_encoder(4, tables), passes)
        assert len(payload) <= 2
        read(symbol_decoder(4, payload, tables), passes)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_message_that_is_changed_or_not_used_up_is_refused(version: int) -> None:
    tables = random_tables(4)
    ((_, chosen),) = passes = symbols_and_tables(4, 500, tables, 1)
    payload = written(symbol_encoder(version, tables), passes)
    early = symbol_decoder(version, payload, tables)
    early.decode(chosen[:100])
    with pytest.raises(BitstreamError):
        early.finish()
    # Of version 3 what is left without a byte is often another message.
    for damaged in (payload[: -1 if version == 4 else -9], payload + b"\1", payload + b"\0", b""):
        assert outcome(symbol_decoder(version, damaged, tables), passes)[1] == "bad_payload"


@pytest.mark.parametrize("version", VERSIONS)
@given(seed=SEEDS, size=st.integers(0, 100), pieces=st.integers(1, 4))
def test_a_decoder_accepts_what_encodes_to_the_same_bytes_and_nothing_else(
    version: int, seed: int, size: int, pieces: int
) -> None:
    tables = random_tables(seed)
    passes = symbols_and_tables(seed, size, tables, pieces)
    for payload in forged(seed, written(symbol_encoder(version, tables), passes)):
        decoder, encoder = symbol_decoder(version, payload, tables), symbol_encoder(version, tables)
        check_fate(decoder, encoder, passes, payload)


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
