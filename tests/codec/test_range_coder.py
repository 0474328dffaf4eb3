"""The range coder: bits with given odds to bytes and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.entropy import PROBABILITY_ONE
from codec.entropy.range_coder import BitDecoder, BitEncoder
from shared.errors import BitstreamError


def random_message(seed: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    chances = rng.integers(1, PROBABILITY_ONE, size).astype(np.uint16)
    return (rng.random(size) < chances / PROBABILITY_ONE).astype(np.uint8), chances


@given(st.integers(0, 10**6), st.integers(0, 400), st.integers(1, 50))
def test_bits_come_back_in_pieces_of_any_size(seed: int, size: int, piece: int) -> None:
    bits, chances = random_message(seed, size)
    encoder = BitEncoder()
    for start in range(0, size, piece):
        encoder.encode(bits[start : start + piece], chances[start : start + piece])
    decoder = BitDecoder(encoder.payload())
    np.testing.assert_array_equal(decoder.decode(chances), bits)
    decoder.finish()


@given(st.integers(0, 10**6), st.sampled_from([0, 1, 3, 50, 2000]))
def test_the_coder_comes_within_two_bytes_of_the_entropy(seed: int, size: int) -> None:
    bits, chances = random_message(seed, size)
    encoder = BitEncoder()
    encoder.encode(bits, chances)
    p = chances / PROBABILITY_ONE
    ideal = -np.log2(np.where(bits == 1, p, 1 - p)).sum()
    # Its odds have 24 bits: that costs a little more.
    assert 8 * len(encoder.payload()) <= 1.0001 * ideal + 16


@given(st.integers(0, 10**6), st.integers(0, 400))
def test_no_byte_can_be_left_away(seed: int, size: int) -> None:
    bits, chances = random_message(seed, size)
    encoder = BitEncoder()
    encoder.encode(bits, chances)
    payload = encoder.payload()
    if not payload:
        assert size == 0 or (bits == BitDecoder(b"").decode(chances)).all()
        return
    shorter = BitDecoder(payload[:-1]).decode(chances)
    assert not payload[-1] or (shorter != bits).any()


def test_a_message_that_is_not_used_up_is_refused() -> None:
    bits, chances = random_message(5, 4000)
    encoder = BitEncoder()
    encoder.encode(bits, chances)
    decoder = BitDecoder(encoder.payload())
    decoder.decode(chances[:1000])
    with pytest.raises(BitstreamError) as refused:
        decoder.finish()
    assert refused.value.reason == "bad_payload"


@pytest.mark.parametrize("change", ["empty", "zeros behind", "last byte gone", "a byte behind"])
def test_only_what_an_encoder_would_write_is_accepted(change: str) -> None:
    """Also a message that decodes to something: a damaged layer is refused, not shown."""
    bits, chances = random_message(8, 600)
    encoder = BitEncoder()
    encoder.encode(bits, chances)
    payload = encoder.payload()
    damaged = {
        "empty": b"",
        "zeros behind": payload + bytes(1),
        "last byte gone": payload[:-1],
        "a byte behind": payload + b"\1",
    }[change]

    def read() -> None:
        decoder = BitDecoder(damaged)
        decoder.decode(chances)
        decoder.finish()

    with pytest.raises(BitstreamError) as refused:
        read()
    assert refused.value.reason == "bad_payload"


def test_random_words_decode_or_are_refused_but_never_crash() -> None:
    rng = np.random.default_rng(9)
    chances = rng.integers(1, PROBABILITY_ONE, 300).astype(np.uint16)
    outcomes = set()
    for _ in range(500):
        payload = rng.bytes(4 * int(rng.integers(0, 6)))
        try:
            assert BitDecoder(payload).decode(chances).shape == (300,)
            outcomes.add("decoded")
        except BitstreamError as error:
            outcomes.add(error.reason)
    assert outcomes <= {"decoded", "bad_payload"}
