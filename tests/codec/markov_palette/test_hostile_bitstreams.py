"""Ten thousand damaged files: every one an error or a true picture, none a crash or a hang."""

from __future__ import annotations

import struct
import time
from pathlib import Path

import google_crc32c
import numpy as np
import pytest

from codec.markov_palette.coding import MarkovPaletteCodec
from shared.bitstream import Bitstream, varint
from shared.bitstream.format3 import HEADER_BYTES
from shared.bundle import Bundle
from shared.errors import BitstreamError
from tests.support.hostile_bitstreams import mutate, reseal
from tests.support.tiny_bundle import make_codec_bundle
from tests.support.tiny_features import encode

DAMAGED, RESEALED = 8000, 2000
HANG_S = 1.0


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_codec_bundle(tmp_path_factory.mktemp("hostile"))


def test_damaged_files_are_refused_or_decode_to_a_true_state(bundle: Bundle) -> None:
    codec = MarkovPaletteCodec(bundle)
    original = encode(bundle, 75, 50)
    data, other = original.to_bytes(), encode(bundle, 75, 50, seed=1).to_bytes()
    indices = codec.decode(original).indices
    partial = codec.chains[0].code(indices, 75, 50, state=2, passes=1)
    sources = (data, partial.to_bytes())
    known = {(s, 0): codec.decode(original.truncate(s)).indices for s in range(5)}
    known[2, 1] = codec.decode(partial).indices
    foreign = {s: codec.decode(Bitstream.from_bytes(other).truncate(s)).indices for s in range(5)}
    rng = np.random.default_rng(20)
    refused, reasons = 0, set()
    for _ in range(DAMAGED):
        mutated = mutate(sources[int(rng.integers(2))], other, rng)
        started = time.perf_counter()
        try:
            bitstream = Bitstream.from_bytes(mutated, allow_cut=True)
            decoded = codec.decode(bitstream).indices
        except BitstreamError as error:
            refused += 1
            reasons.add(error.reason)
        else:
            passes = bitstream.partial.passes if bitstream.partial else 0
            candidates = [known[bitstream.state, passes], foreign[bitstream.state]]
            assert any(
                all(np.array_equal(decoded[name], candidate[name]) for name in candidate)
                for candidate in candidates
            )
        assert time.perf_counter() - started < HANG_S
    assert refused > DAMAGED // 2
    assert {"truncated", "crc_mismatch", "bad_magic", "bad_version"} <= reasons


def test_forged_payloads_with_valid_checksums_never_crash(bundle: Bundle) -> None:
    codec = MarkovPaletteCodec(bundle)
    original = encode(bundle, 75, 50)
    partial = codec.chains[0].code(codec.decode(original).indices, 75, 50, state=1, passes=2)
    rng = np.random.default_rng(21)
    outcomes, reasons = {"refused": 0, "decoded": 0}, set()
    for _ in range(RESEALED):
        data = reseal((original, partial)[int(rng.integers(2))], rng)
        started = time.perf_counter()
        try:
            indices = codec.decode(Bitstream.from_bytes(data)).indices
        except BitstreamError as error:
            reasons.add(error.reason)
            outcomes["refused"] += 1
        else:
            depths = codec.chains[0].palette.depths(0)
            assert all(g.min() >= 0 and g.max() < 2 ** depths[n] for n, g in indices.items())
            outcomes["decoded"] += 1
        assert time.perf_counter() - started < HANG_S
    assert all(outcomes.values())
    assert reasons <= {"bad_payload", "limit_exceeded", "bad_passes"}


def test_a_small_file_cannot_ask_for_much_memory(bundle: Bundle, tmp_path: Path) -> None:
    """The largest picture in a header, and huge lengths: refused without large allocations."""
    import tracemalloc

    header = bytearray(encode(bundle, 32, 32).to_bytes()[: HEADER_BYTES - 4])
    struct.pack_into("<HH", header, 13, 8192, 8192)
    sealed = bytes(header) + struct.pack("<I", google_crc32c.value(bytes(header)))
    tracemalloc.start()
    try:
        for length in (0, 2**20, 2**24, 2**28 - 1):
            with pytest.raises(BitstreamError):
                Bitstream.from_bytes(sealed + varint.encode(length) + b"\0\0\0\0")
        assert tracemalloc.get_traced_memory()[1] < 2**20
    finally:
        tracemalloc.stop()
