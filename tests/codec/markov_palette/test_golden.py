"""The golden files' indices, and what encoding them again gives; see also the contract's test."""

from __future__ import annotations

from pathlib import Path

import pytest

from codec.markov_palette.coding import MarkovPaletteCodec
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from tests.support.contract import golden, golden_folder, index_hash

FOLDER = golden_folder("markov-palette")
FILES = golden("markov-palette")["files"]
HASHES = {one["file"]: one["indices_sha256"] for one in FILES if "indices_sha256" in one}
"""By the name of the first version's file: files of later ones have the same indices."""


@pytest.fixture(scope="module")
def codec() -> MarkovPaletteCodec:
    return MarkovPaletteCodec(Bundle.load(FOLDER / "bundle.zip"))


@pytest.mark.parametrize("record", FILES, ids=lambda record: record["file"])
def test_golden_files_decode_to_the_same_indices(
    codec: MarkovPaletteCodec, record: dict[str, str]
) -> None:
    bitstream = Bitstream.from_bytes((FOLDER / record["file"]).read_bytes())
    assert index_hash(codec.decode(bitstream).indices) == HASHES[Path(record["file"]).name]


def test_encoding_the_golden_indices_again_gives_the_golden_bytes(
    codec: MarkovPaletteCodec,
) -> None:
    """The finest file's indices give every other file too, and so does shortening it."""
    for record in FILES:
        data = (FOLDER / record["file"]).read_bytes()
        bitstream = Bitstream.from_bytes(data)
        size = bitstream.width, bitstream.height
        finest = Bitstream.from_bytes((FOLDER / "{}x{}-state0.fwf".format(*size)).read_bytes())
        passes = bitstream.partial.passes if bitstream.partial else 0
        indices = codec.decode(finest).indices
        again = codec.chains[0].code(
            indices, *size, state=bitstream.state, passes=passes, version=bitstream.version
        )
        assert again.to_bytes() == data
        whole = (
            finest
            if bitstream.version == finest.version
            else codec.recode(finest, bitstream.version)
        )
        assert codec.shorten(whole, len(data)).file_bytes <= len(data)
