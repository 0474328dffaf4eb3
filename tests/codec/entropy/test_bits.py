"""Bits with given odds to bytes and back, in messages of both versions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.entropy import PROBABILITY_ONE, bit_decoder, bit_encoder
from shared.errors import BitstreamError
from tests.support.entropy import (
    VERSIONS,
    bits_and_chances,
    check_fate,
    forged,
    outcome,
    read,
    written,
)

SEEDS = st.integers(0, 10**6)


@pytest.mark.parametrize("version", VERSIONS)
@given(seed=SEEDS, size=st.integers(0, 400), pieces=st.integers(1, 6))
def test_bits_come_back_in_pieces_of_any_size(
    version: int, seed: int, size: int, pieces: int
) -> None:
    passes = bits_and_chances(seed, size, pieces)
    payload = written(bit_encoder(version), passes)
    read(bit_decoder(version, payload), passes)


@pytest.mark.parametrize("version", VERSIONS)
@given(seed=SEEDS, size=st.sampled_from([0, 1, 3, 10, 50, 2000]))
def test_the_coder_comes_within_two_bytes_of_the_entropy(
    version: int, seed: int, size: int
) -> None:
    ((bits, chances),) = passes = bits_and_chances(seed, size, 1)
    p = chances / PROBABILITY_ONE
    ideal = -np.log2(np.where(bits == 1, p, 1 - p)).sum()
    assert 8 * len(written(bit_encoder(version), passes)) <= 1.003 * ideal + 12


def test_ten_even_bits_are_two_bytes() -> None:
    """A message of a few bits, as of a class or a flag, has no header and no slack."""
    chances = np.full(10, PROBABILITY_ONE // 2, np.uint16)
    for number in range(1 << 10):
        bits = np.array([number >> place & 1 for place in range(10)], np.uint8)
        passes = [(bits, chances)]
        payload = written(bit_encoder(4), passes)
        assert len(payload) <= 2
        read(bit_decoder(4, payload), passes)


def test_what_is_almost_certain_costs_almost_nothing() -> None:
    chances = np.full(20000, 1, np.uint16)
    chances[::2] = PROBABILITY_ONE - 1
    bits = (chances > 1).astype(np.uint8)
    assert len(written(bit_encoder(4), [(bits, chances)])) <= 1
    bits[[5, 17000]] ^= 1
    payload = written(bit_encoder(4), [(bits, chances)])
    assert len(payload) <= 5
    read(bit_decoder(4, payload), [(bits, chances)])


@given(seed=SEEDS, size=st.integers(0, 400))
def test_no_byte_of_version_3_can_be_left_away(seed: int, size: int) -> None:
    ((bits, chances),) = passes = bits_and_chances(seed, size, 1)
    payload = written(bit_encoder(3), passes)
    if not payload:
        assert size == 0 or (bits == bit_decoder(3, b"").decode(chances)).all()
        return
    shorter = bit_decoder(3, payload[:-1]).decode(chances)
    assert not payload[-1] or (shorter != bits).any()


@pytest.mark.parametrize("gone", [1, 2, 3, 50])
def test_what_is_left_of_a_message_is_hardly_ever_another(gone: int) -> None:
    """Its length says how much its symbols are worth."""
    accepted = 0
    for seed in range(100):
        passes = bits_and_chances(seed, 600, 1)
        payload = written(bit_encoder(4), passes)
        _, fate = outcome(bit_decoder(4, payload[:-gone]), passes)
        accepted += fate == "accepted"
    assert accepted <= 5


@pytest.mark.parametrize("version", VERSIONS)
def test_a_message_that_is_not_used_up_is_refused(version: int) -> None:
    ((_, chances),) = passes = bits_and_chances(5, 4000, 1)
    decoder = bit_decoder(version, written(bit_encoder(version), passes))
    decoder.decode(chances[:1000])
    with pytest.raises(BitstreamError) as refused:
        decoder.finish()
    assert refused.value.reason == "bad_payload"


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("change", ["empty", "zeros behind", "last byte gone", "a byte behind"])
def test_only_what_an_encoder_would_write_is_accepted(version: int, change: str) -> None:
    """Also a message that decodes to something: a damaged layer is refused, not shown."""
    passes = bits_and_chances(8, 600, 1)
    payload = written(bit_encoder(version), passes)
    damaged = {
        "empty": b"",
        "zeros behind": payload + bytes(1),
        "last byte gone": payload[:-1],
        "a byte behind": payload + b"\1",
    }[change]
    assert outcome(bit_decoder(version, damaged), passes)[1] == "bad_payload"


@pytest.mark.parametrize("version", VERSIONS)
@given(seed=SEEDS, size=st.integers(0, 120), pieces=st.integers(1, 4))
def test_a_decoder_accepts_what_encodes_to_the_same_bytes_and_nothing_else(
    version: int, seed: int, size: int, pieces: int
) -> None:
    """It does not encode again, but says what that would say."""
    passes = bits_and_chances(seed, size, pieces)
    for payload in forged(seed, written(bit_encoder(version), passes)):
        check_fate(bit_decoder(version, payload), bit_encoder(version), passes, payload)


@pytest.mark.parametrize("version", VERSIONS)
def test_random_words_decode_or_are_refused_but_never_crash(version: int) -> None:
    rng = np.random.default_rng(9)
    chances = rng.integers(1, PROBABILITY_ONE, 300).astype(np.uint16)
    outcomes = set()
    for _ in range(500):
        payload = rng.bytes(int(rng.integers(0, 24)))
        try:
            assert bit_decoder(version, payload).decode(chances).shape == (300,)
            outcomes.add("decoded")
        except BitstreamError as error:
            outcomes.add(error.reason)
    assert outcomes <= {"decoded", "bad_payload"}


def test_a_version_without_a_coder_is_an_error() -> None:
    with pytest.raises(ValueError, match="version 5"):
        bit_encoder(5)
