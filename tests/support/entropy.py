"""Messages to code: odds of every kind, in passes, and damaged bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from codec.entropy import PROBABILITY_ONE, SymbolTables
from shared.errors import BitstreamError

VERSIONS = (3, 4)
TOTAL = 1 << 20
Pass = tuple[np.ndarray, np.ndarray]


def bits_and_chances(seed: int, size: int, pieces: int) -> list[Pass]:
    """One pass of bits, every probability as likely; or some of any, with the odds or against."""
    rng = np.random.default_rng(seed)
    chances = rng.integers(1, PROBABILITY_ONE, size).astype(np.uint16)
    likely = (rng.random(size) < chances / PROBABILITY_ONE).astype(np.uint8)
    if pieces == 1:
        return [(likely, chances)]
    kinds = [
        chances,
        rng.integers(1, 300, size),
        rng.choice([1, 2, 3, PROBABILITY_ONE - 2, PROBABILITY_ONE - 1], size),
        rng.choice([1, PROBABILITY_ONE // 2, PROBABILITY_ONE - 1], size),
        rng.integers(20000, 45000, size),
    ]
    chances = kinds[rng.integers(len(kinds))].astype(np.uint16)
    against = rng.random() < 0.3
    bits = rng.integers(0, 2, size) if against else rng.random(size) < chances / PROBABILITY_ONE
    return cut(rng, bits.astype(np.uint8), chances, pieces)


def random_tables(seed: int, count: int = 5, symbols: int = 30, total: int = TOTAL) -> SymbolTables:
    """From flat to nearly certain."""
    rng = np.random.default_rng(seed)
    shares = [rng.dirichlet(np.full(symbols, [0.01, 0.2, 3][n % 3])) for n in range(count)]
    counts = np.maximum(1, np.array(shares) * (total - symbols)).astype(np.int32)
    counts[np.arange(count), counts.argmax(1)] += total - counts.sum(1)
    return SymbolTables(counts)


def symbols_and_tables(seed: int, size: int, tables: SymbolTables, pieces: int) -> list[Pass]:
    """Passes of symbols that go with their tables; some of several passes do not."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(tables), size).astype(np.intp)
    total, most = tables.counts[0].sum(), tables.counts.shape[1]
    if pieces > 1 and rng.random() < 0.2:
        symbols = rng.integers(0, most, size).tolist()
    else:
        symbols = [rng.choice(most, p=tables.counts[t] / total) for t in chosen]
    return cut(rng, np.array(symbols, np.int32), chosen, pieces)


def cut(rng: np.random.Generator, symbols: np.ndarray, models: np.ndarray, n: int) -> list[Pass]:
    """n passes of any sizes."""
    where = np.sort(rng.integers(0, len(symbols) + 1, n - 1))
    return list(zip(np.split(symbols, where), np.split(models, where), strict=True))


def written(encoder: Any, passes: Sequence[Pass]) -> bytes:
    """The message of all passes."""
    for symbols, models in passes:
        encoder.encode(symbols, models)
    payload: bytes = encoder.payload()
    return payload


def read(decoder: Any, passes: Sequence[Pass]) -> None:
    """Decode all passes, which must be these, to the message's end."""
    for symbols, models in passes:
        found = decoder.decode(models)
        assert found.dtype == symbols.dtype
        np.testing.assert_array_equal(found, symbols)
    decoder.finish()


def outcome(decoder: Any, passes: Sequence[Pass]) -> tuple[list[np.ndarray], str]:
    """What is decoded, and "accepted" or the reason for the refusal."""
    found: list[np.ndarray] = []
    try:
        for _, models in passes:
            found.append(decoder.decode(models))
        decoder.finish()
    except BitstreamError as error:
        return found, error.reason
    return found, "accepted"


def check_fate(decoder: Any, again: Any, passes: Sequence[Pass], payload: bytes) -> None:
    """The decoder accepts the payload if ``again``, an encoder, writes it, and else refuses it."""
    found, fate = outcome(decoder, passes)
    if len(found) < len(passes):
        assert fate == "bad_payload"
        return
    models = [models for _, models in passes]
    same = written(again, list(zip(found, models, strict=True))) == payload
    assert fate == ("accepted" if same else "bad_payload")


def forged(seed: int, payload: bytes) -> Iterator[bytes]:
    """The message itself, and what is near it."""
    rng = np.random.default_rng(seed)
    yield payload
    yield payload + bytes(int(rng.integers(1, 4)))
    yield payload + rng.bytes(int(rng.integers(1, 9)))
    yield payload[: int(rng.integers(0, len(payload) + 1))]
    yield payload.rstrip(b"\0")
    yield rng.bytes(int(rng.integers(0, 20)))
    yield b"\xff" * int(rng.integers(0, 20))
    if payload:
        changed = bytearray(payload)
        changed[int(rng.integers(len(payload)))] ^= 1 << int(rng.integers(8))
        yield bytes(changed)
        changed = bytearray(payload)
        changed[-1] ^= 1 << int(rng.integers(8))
        yield bytes(changed)
