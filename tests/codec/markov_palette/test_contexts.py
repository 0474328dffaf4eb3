"""The odds of a picture's splits: the documented formula, the same numbers in any arithmetic."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.entropy import bit_decoder, bit_encoder
from codec.exact import UNIT
from codec.markov_palette.context_network import (
    COARSE_STEPS,
    MATE_STEPS,
    NEAREST,
    OWN_STEPS,
    input_colours,
)
from codec.markov_palette.contexts import ContextModel, PictureContexts, known_depths
from codec.markov_palette.palette import Pass
from codec.markov_palette.train.small import tiny_contexts
from shared.bitstream import FORMAT_VERSION
from shared.errors import BitstreamError
from tests.support.tiny_bundle import tiny_palette

MODEL = tiny_contexts(tiny_palette())
PALETTE = MODEL.palette
Indices = dict[str, np.ndarray]


def stream() -> Iterator[Pass]:
    for state in range(PALETTE.coarsest_state, -1, -1):
        yield from PALETTE.passes(state)


def random_indices(height: int, width: int, seed: int) -> Indices:
    rng = np.random.default_rng(seed)
    factor = {"semantic": 1, "texture": 2}
    return {
        p.name: rng.integers(
            0, 2**p.depth, (height * factor[p.scale], width * factor[p.scale])
        ).astype(np.int32)
        for p in PALETTE.planes
    }


def begin(indices: Indices, **how: type) -> PictureContexts:
    return MODEL.open({name: grid.shape for name, grid in indices.items()}, **how)


def bits_of(indices: Indices, step: Pass, positions: np.ndarray) -> np.ndarray:
    below = PALETTE.trees[step.plane].depth - step.depth - 1
    return ((indices[step.plane].reshape(-1)[positions] >> below) & 1).astype(np.uint8)


def all_odds(indices: Indices, **how: type) -> list[np.ndarray]:
    contexts, odds = begin(indices, **how), []
    for step in stream():
        odds.append(contexts.probabilities(*step))
        contexts.advance(*step, bits_of(indices, step, contexts.positions(step.plane, step.side)))
    return odds


sizes = st.integers(1, 7)
seeds = st.integers(0, 10**6)


@given(sizes, sizes, seeds)
@settings(max_examples=25)
def test_float32_float64_and_integers_give_the_same_odds(
    height: int, width: int, seed: int
) -> None:
    indices = random_indices(height, width, seed)
    fast = all_odds(indices)
    for dtype in (np.float64, np.int64):
        for one, other in zip(fast, all_odds(indices, dtype=dtype), strict=True):
            np.testing.assert_array_equal(one, other)
    assert all(odds.dtype == np.uint16 and odds.min(initial=1) >= 1 for odds in fast)
    assert len(np.unique(np.concatenate(fast))) > 1


def test_a_picture_larger_than_a_block_gives_what_integers_give() -> None:
    """Passes are evaluated in blocks of positions; the last one is shorter."""
    indices = random_indices(53, 91, 3)
    for one, other in zip(all_odds(indices), all_odds(indices, dtype=np.int64), strict=True):
        np.testing.assert_array_equal(one, other)


@given(sizes, sizes, seeds)
@settings(max_examples=25)
def test_a_decoder_gets_back_what_an_encoder_wrote(height: int, width: int, seed: int) -> None:
    indices = random_indices(height, width, seed)
    encoder, contexts = bit_encoder(FORMAT_VERSION), begin(indices)
    for step in stream():
        bits = bits_of(indices, step, contexts.positions(step.plane, step.side))
        encoder.encode(bits, contexts.probabilities(*step))
        contexts.advance(*step, bits)
    decoder, contexts = bit_decoder(FORMAT_VERSION, encoder.payload()), begin(indices)
    for step in stream():
        contexts.advance(*step, decoder.decode(contexts.probabilities(*step)))
    decoder.finish()
    for name, grid in indices.items():
        np.testing.assert_array_equal(contexts.indices(name), grid)
        assert (contexts.depths(name) == PALETTE.trees[name].depth).all()


def decode_with(model: ContextModel, payload: bytes, shapes: dict[str, tuple[int, ...]]) -> None:
    decoder, contexts = bit_decoder(FORMAT_VERSION, payload), model.open(shapes)
    for step in stream():
        contexts.advance(*step, decoder.decode(contexts.probabilities(*step)))
    decoder.finish()


@pytest.mark.parametrize("change", ["another model", "larger grid", "words swapped"])
def test_a_decoder_in_another_state_refuses_the_message(change: str) -> None:
    indices = random_indices(6, 5, 4)
    encoder, contexts = bit_encoder(FORMAT_VERSION), begin(indices)
    for step in stream():
        bits = bits_of(indices, step, contexts.positions(step.plane, step.side))
        encoder.encode(bits, contexts.probabilities(*step))
        contexts.advance(*step, bits)
    payload = encoder.payload()
    shapes = {name: grid.shape for name, grid in indices.items()}
    decode_with(MODEL, payload, shapes)
    model = tiny_contexts(PALETTE, seed=6) if change == "another model" else MODEL
    if change == "larger grid":
        shapes = {name: (2 * shape[0], shape[1]) for name, shape in shapes.items()}
    if change == "words swapped":
        payload = payload[4:8] + payload[:4] + payload[8:]
    with pytest.raises(BitstreamError) as refused:
        decode_with(model, payload, shapes)
    assert refused.value.reason == "bad_payload"


def odds_by_hand(indices: Indices, depths: dict[str, np.ndarray], step: Pass) -> np.ndarray:
    """The formula of the context network, position by position, in Python integers."""
    network = MODEL.networks[step.plane]
    mates, coarser = MODEL.mates[step.plane], MODEL.coarser[step.plane]

    def colour(plane: str, y: int, x: int) -> list[int]:
        columns = input_colours(PALETTE.trees[plane], 0).shape[1]
        if not (0 <= y < indices[plane].shape[0] and 0 <= x < indices[plane].shape[1]):
            return [0] * columns
        depth = int(depths[plane][y, x])
        node = int(indices[plane][y, x]) >> (PALETTE.trees[plane].depth - depth)
        return [int(v) for v in input_colours(PALETTE.trees[plane], depth)[node]]

    def layer(inputs: list[int], weights: np.ndarray, bias: np.ndarray, shift: int) -> list[int]:
        sums = [
            sum(i * int(w) for i, w in zip(inputs, weights[:, n], strict=True)) + int(bias[n])
            for n in range(weights.shape[1])
        ]
        return [min(max(total >> shift, 0), 255) for total in sums]

    height, width = indices[step.plane].shape
    group = 2 * step.depth + step.side
    out = []
    for y in range(height):
        for x in range(width):
            if (y + x) % 2 != step.side:
                continue
            inputs = [v for dy, dx in OWN_STEPS for v in colour(step.plane, y + dy, x + dx)]
            for dy, dx in MATE_STEPS:
                for mate in mates:
                    inputs += colour(mate, y + dy, x + dx)
            inputs.append(UNIT)
            for dy, dx in NEAREST:
                inputs.append(UNIT if 0 <= y + dy < height and 0 <= x + dx < width else 0)
            trunk = network.trunk
            if trunk is not None:
                around = [
                    v
                    for dy, dx in COARSE_STEPS
                    for name in coarser
                    for v in colour(name, y // 2 + dy, x // 2 + dx)
                ]
                inner = layer(around, trunk.weights, trunk.bias, int(trunk.shifts[0]))
                outer = layer(inner, trunk.phase_weights, trunk.phase_bias, int(trunk.shifts[1]))
                phase = (y % 2) * 2 + x % 2
                inputs += outer[phase * network.features : (phase + 1) * network.features]
            weights = np.concatenate([network.own, network.mates, network.place], 1)[group]
            tree = PALETTE.trees[step.plane]
            node = 2**step.depth - 1 + (int(indices[step.plane][y, x]) >> (tree.depth - step.depth))
            shifts = network.shifts[:, group]
            hidden = layer(inputs, weights, network.entry[node], int(shifts[0]))
            summary = layer(
                hidden, network.summary[group], network.summary_bias[group], int(shifts[1])
            )
            total = sum(s * int(r) for s, r in zip(summary, network.readout[node], strict=True))
            odds = (total + int(network.prior[node])) >> int(shifts[2])
            out.append(MODEL.probabilities[min(max(odds, -256), 256) + 256])
    return np.array(out, np.uint16)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 2)])
def test_odds_follow_the_documented_formula(shape: tuple[int, int]) -> None:
    indices = random_indices(*shape, seed=sum(shape))
    contexts = begin(indices)
    for step in stream():
        depths = {name: contexts.depths(name) for name in indices}
        expected = odds_by_hand(indices, depths, step)
        np.testing.assert_array_equal(contexts.probabilities(*step), expected)
        contexts.advance(*step, bits_of(indices, step, contexts.positions(step.plane, step.side)))


def test_odds_depend_on_what_is_known_and_on_nothing_else() -> None:
    """Two pictures that differ from some pass on have the same odds up to that pass."""
    one, other = random_indices(4, 5, 1), random_indices(4, 5, 2)
    steps = list(stream())
    for meeting in range(0, len(steps), 5):
        first, second = begin(one), begin(other)
        for number, step in enumerate(steps[: meeting + 1]):
            np.testing.assert_array_equal(first.probabilities(*step), second.probabilities(*step))
            bits = bits_of(one, step, first.positions(step.plane, step.side))
            first.advance(*step, bits)
            second.advance(*step, bits if number < meeting else 1 - bits)
    assert any(
        not np.array_equal(a, b) for a, b in zip(all_odds(one), all_odds(other), strict=True)
    )


def test_asking_twice_changes_nothing() -> None:
    indices = random_indices(3, 3, 8)
    contexts = begin(indices)
    for step in stream():
        again = contexts.probabilities(*step)
        np.testing.assert_array_equal(contexts.probabilities(*step), again)
        contexts.advance(*step, bits_of(indices, step, contexts.positions(step.plane, step.side)))


def test_indices_and_depths_follow_the_passes() -> None:
    indices = random_indices(2, 3, 9)
    contexts = begin(indices)
    first = next(stream())
    positions = contexts.positions(first.plane, 0)
    np.testing.assert_array_equal(positions, [0, 2, 4])
    contexts.advance(*first, np.array([1, 0, 1], np.uint8))
    np.testing.assert_array_equal(contexts.indices(first.plane), [[1, 0, 0], [0, 1, 0]])
    np.testing.assert_array_equal(contexts.depths(first.plane), [[1, 0, 1], [0, 1, 0]])
    contexts.indices(first.plane)[:] = 7
    assert contexts.indices(first.plane).max() == 1


def test_passes_out_of_order_are_refused() -> None:
    contexts = begin(random_indices(2, 2, 0))
    none, two = np.zeros(0, np.uint8), np.zeros(2, np.uint8)
    for plane, depth, side in (("semantic_0", 0, 1), ("semantic_0", 1, 0), ("semantic_0", 0, 2)):
        with pytest.raises(ValueError, match="pass"):
            contexts.probabilities(plane, depth, side)
        with pytest.raises(ValueError, match="pass"):
            contexts.advance(plane, depth, side, two)
    for wrong in (none, two + 2, np.zeros((2, 1), np.uint8)):
        with pytest.raises(ValueError, match="bits"):
            contexts.advance("semantic_0", 0, 0, wrong)
    for depth in range(5):
        for side in (0, 1):
            contexts.advance("semantic_0", depth, side, two)
    with pytest.raises(ValueError, match="no split"):
        contexts.probabilities("semantic_0", 5, 0)


def test_grids_that_do_not_fit_each_other_are_refused() -> None:
    shapes = {"semantic_0": (4, 4), "semantic_1": (4, 4), "texture_0": (8, 7)}
    with pytest.raises(ValueError, match="not 2 times"):
        MODEL.open(shapes)


def test_known_depths_are_those_of_the_stream() -> None:
    indices = random_indices(2, 2, 5)
    contexts, known = begin(indices), known_depths(PALETTE)
    for step in stream():
        if step.side == 0:
            seen = {name: int(contexts.depths(name).max()) for name in indices}
            assert known[step.plane, step.depth] == seen
        contexts.advance(*step, bits_of(indices, step, contexts.positions(step.plane, step.side)))
