"""Integer contexts and tables, and the range coder on top of them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.entropy import PROBABILITY_ONE, BitDecoder, BitEncoder, ContextTables, PlaneContexts
from shared.errors import BitstreamError, BundleError
from shared.palette import PaletteTree


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


def test_the_coder_comes_within_a_word_or_two_of_the_entropy() -> None:
    bits, chances = random_message(3, 20000)
    encoder = BitEncoder()
    encoder.encode(bits, chances)
    p = chances / PROBABILITY_ONE
    ideal = -np.log2(np.where(bits == 1, p, 1 - p)).sum()
    assert ideal <= 8 * len(encoder.payload()) + 1 <= ideal + 80


def test_payloads_that_are_no_whole_words_are_refused() -> None:
    with pytest.raises(BitstreamError) as refused:
        BitDecoder(b"abc")
    assert refused.value.reason == "bad_payload"


def test_a_message_that_is_not_used_up_is_refused() -> None:
    bits, chances = random_message(5, 4000)
    encoder = BitEncoder()
    encoder.encode(bits, chances)
    decoder = BitDecoder(encoder.payload())
    decoder.decode(chances[:1000])
    with pytest.raises(BitstreamError) as refused:
        decoder.finish()
    assert refused.value.reason == "bad_payload"


@pytest.mark.parametrize("change", ["empty", "zeros behind", "last word gone", "bit flipped"])
def test_only_what_an_encoder_would_write_is_accepted(change: str) -> None:
    """Also a message that decodes to something: a damaged layer is refused, not shown."""
    bits, chances = random_message(8, 600)
    encoder = BitEncoder()
    encoder.encode(bits, chances)
    payload = encoder.payload()
    damaged = {
        "empty": b"",
        "zeros behind": payload + bytes(4),
        "last word gone": payload[:-4],
        "bit flipped": payload[:-1] + bytes([payload[-1] ^ 0x01]),
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


def simple_tree() -> PaletteTree:
    leaves = np.array([[-3.0, 0.0], [-1.0, 0.5], [1.0, -0.5], [3.0, 0.0]])
    return PaletteTree.from_leaves(leaves, np.array([1, 1, 1, 1]))


def scores_by_hand(
    tree: PaletteTree, nodes: np.ndarray, bits: np.ndarray, depth: int
) -> np.ndarray:
    """The documented formula, position by position, in Python integers."""
    height, width = nodes.shape
    children = tree.integer_colours(depth + 1).astype(int)
    here = tree.integer_colours(depth).astype(int)
    scores = np.zeros(nodes.shape, int)
    for y in range(height):
        for x in range(width):
            second_pass = (x + y) % 2 == 1
            total, weight = np.zeros(tree.channels, int), 0
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if (dy, dx) == (0, 0) or not (0 <= y + dy < height and 0 <= x + dx < width):
                        continue
                    node = nodes[y + dy, x + dx]
                    diagonal = dy != 0 and dx != 0
                    if second_pass and not diagonal:
                        colour = children[2 * node + bits[y + dy, x + dx]]
                    else:
                        colour = here[node]
                    factor = 1 if diagonal else 2
                    total, weight = total + factor * colour, weight + factor
            first, second = children[2 * nodes[y, x]], children[2 * nodes[y, x] + 1]
            normal = second - first
            length = max(1, int(normal @ normal))
            offset = 2 * total - weight * (first + second)
            scores[y, x] = 32 * int(offset @ normal) // max(1, weight * length)
    return scores


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (4, 1), (5, 6)])
@pytest.mark.parametrize("depth", [0, 1])
def test_contexts_follow_the_documented_formula(shape: tuple[int, int], depth: int) -> None:
    tree = simple_tree()
    rng = np.random.default_rng(depth)
    nodes = rng.integers(0, 2**depth, shape).astype(np.int32)
    bits = rng.integers(0, 2, shape).astype(np.uint8)
    thresholds = np.arange(-40, 41, 4, dtype=np.int32)
    scores = scores_by_hand(tree, nodes, bits, depth)
    seen = np.full(shape, -1)

    def exchange(contexts: np.ndarray, positions: np.ndarray) -> np.ndarray:
        seen.reshape(-1)[positions] = contexts
        return bits.reshape(-1)[positions]

    finer = PlaneContexts(tree, thresholds, *shape).split(nodes, depth, exchange)
    np.testing.assert_array_equal(finer, 2 * nodes + bits)
    rows, columns = np.indices(shape)
    expected_node = ((rows + columns) % 2) * 3 + 2**depth - 1 + nodes
    expected = expected_node * 22 + np.searchsorted(thresholds, scores, side="right")
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize(
    ("thresholds", "table"),
    [
        (np.array([1.0]), np.ones((2, 3, 2), np.uint16)),
        (np.array([3, 1], np.int32), np.ones((2, 3, 3), np.uint16)),
        (np.array([1, 3], np.int32), np.ones((2, 3, 2), np.uint16)),
        (np.array([1, 3], np.int32), np.ones((1, 3, 3), np.uint16)),
        (np.array([1, 3], np.int32), np.zeros((2, 3, 3), np.uint16)),
        (np.array([1, 3], np.int32), np.ones((2, 3, 3), np.float32)),
        (np.arange(70, dtype=np.int32), np.ones((2, 3, 71), np.uint16)),
    ],
)
def test_malformed_tables_are_refused(thresholds: np.ndarray, table: np.ndarray) -> None:
    with pytest.raises(BundleError) as refused:
        ContextTables(thresholds, table)
    assert refused.value.reason == "bad_contexts"


def test_tables_round_trip_through_arrays() -> None:
    tables = ContextTables(np.array([-5, 5], np.int32), np.full((2, 3, 3), 77, np.uint16))
    again = ContextTables.from_arrays("p", tables.to_arrays("p"))
    np.testing.assert_array_equal(again.probabilities, tables.probabilities)
    assert again.bins == 3
    with pytest.raises(BundleError, match="lacks"):
        ContextTables.from_arrays("q", tables.to_arrays("p"))
