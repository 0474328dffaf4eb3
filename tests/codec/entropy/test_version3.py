"""Messages of version 3 are those that constriction's range coder wrote, byte for byte."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.entropy import PROBABILITY_ONE, bit_decoder, bit_encoder, symbol_decoder, symbol_encoder
from tests.support.entropy import (
    Pass,
    bits_and_chances,
    forged,
    outcome,
    random_tables,
    symbols_and_tables,
    written,
)

pytest.importorskip("constriction", reason="the reference has no wheel for this machine")
reference = pytest.importorskip("tests.support.constriction_coder")

SEEDS = st.integers(0, 10**6)


def check_same(ours: Any, theirs: Any, passes: list[Pass]) -> None:
    (found, fate), (expected, expected_fate) = outcome(ours, passes), outcome(theirs, passes)
    assert fate == expected_fate
    for here, there in zip(found, expected, strict=True):
        np.testing.assert_array_equal(here, there)


@given(seed=SEEDS, size=st.integers(0, 500), pieces=st.integers(1, 6))
def test_bits_are_the_same_bytes_and_forgeries_have_the_same_fate(
    seed: int, size: int, pieces: int
) -> None:
    passes = bits_and_chances(seed, size, pieces)
    payload = written(bit_encoder(3), passes)
    assert payload == written(reference.BitEncoder(), passes)
    for damaged in forged(seed, payload):
        check_same(bit_decoder(3, damaged), reference.BitDecoder(damaged), passes)


@given(seed=SEEDS, size=st.integers(0, 200), pieces=st.integers(1, 6))
def test_symbols_are_the_same_bytes_and_forgeries_have_the_same_fate(
    seed: int, size: int, pieces: int
) -> None:
    total = 1 << int(np.random.default_rng(seed).integers(6, 21))
    tables = random_tables(seed, total=total)
    passes = symbols_and_tables(seed, size, tables, pieces)
    payload = written(symbol_encoder(3, tables), passes)
    assert payload == written(reference.SymbolEncoder(tables.counts), passes)
    for damaged in forged(seed, payload):
        theirs = reference.SymbolDecoder(damaged, tables.counts)
        check_same(symbol_decoder(3, damaged, tables), theirs, passes)


def test_every_probability_has_the_same_share_of_24_bits() -> None:
    chances = np.arange(1, PROBABILITY_ONE, dtype=np.uint16)
    for bits in (np.zeros(len(chances), np.uint8), np.ones(len(chances), np.uint8)):
        passes = [(bits, chances)]
        assert written(bit_encoder(3), passes) == written(reference.BitEncoder(), passes)


def test_a_carry_goes_through_many_words() -> None:
    """Ones against all odds, and then a likely one: the interval lies across a word's end."""
    found = set()
    for length in range(1, 60):
        chances = np.full(length, PROBABILITY_ONE - 1, np.uint16)
        chances[::7] = 1
        for tail in ([0, 0], [1, 1], [0, 1]):
            bits = np.ones(length, np.uint8)
            bits[-2:] = tail[: len(bits[-2:])]
            passes = [(bits, chances)]
            payload = written(bit_encoder(3), passes)
            assert payload == written(reference.BitEncoder(), passes)
            found.add(len(payload))
    assert len(found) > 10
