"""Today's bytes decode the same for ever, whatever decodes them."""

from __future__ import annotations

import hashlib
import json

import pytest

from codec.markov_palette.codec import MarkovPaletteCodec
from codec.registry import open_codec
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from tests.golden.make import FOLDER, index_hash
from tests.support.processors import ENVIRONMENTS, printed

GOLDEN = json.loads((FOLDER / "golden.json").read_text())


@pytest.fixture(scope="module")
def codec() -> MarkovPaletteCodec:
    bundle = Bundle.load(FOLDER / "codec-bundle.zip")
    assert bundle.id == GOLDEN["bundle_id"]
    codec = open_codec(bundle)
    assert isinstance(codec, MarkovPaletteCodec)
    return codec


@pytest.mark.parametrize("record", GOLDEN["files"], ids=lambda record: record["file"])
def test_golden_files_decode_to_the_same_indices(
    codec: MarkovPaletteCodec, record: dict[str, str]
) -> None:
    data = (FOLDER / record["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == record["file_sha256"]
    bitstream = Bitstream.from_bytes(data)
    assert index_hash(codec.decode_indices(bitstream)) == record["indices_sha256"]
    assert bitstream.to_bytes() == data


def test_encoding_the_golden_indices_again_gives_the_golden_bytes(
    codec: MarkovPaletteCodec,
) -> None:
    """The finest file's indices give every other file too, and so does shortening it."""
    for record in GOLDEN["files"]:
        data = (FOLDER / record["file"]).read_bytes()
        bitstream = Bitstream.from_bytes(data)
        size = bitstream.width, bitstream.height
        finest = Bitstream.from_bytes((FOLDER / "{}x{}-state0.fwf".format(*size)).read_bytes())
        passes = bitstream.partial.passes if bitstream.partial else 0
        indices = codec.decode_indices(finest)
        again = codec.code(indices, *size, state=bitstream.state, passes=passes)
        assert again.to_bytes() == data
        assert codec.shorten(finest, len(data)).file_bytes <= len(data)


_DECODE = """
import sys
from pathlib import Path
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from codec.registry import open_codec
from tests.golden.make import FOLDER, index_hash
codec = open_codec(Bundle.load(FOLDER / "codec-bundle.zip"))
for path in sorted(FOLDER.glob("*.fwf")):
    print(path.name, index_hash(codec.decode_indices(Bitstream.from_bytes(path.read_bytes()))))
"""


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=list(ENVIRONMENTS))
def test_indices_do_not_depend_on_threads_or_processor(environment: dict[str, str]) -> None:
    """Other processors are imitated: numpy and OpenBLAS are told to use older instructions."""
    expected = {record["file"]: record["indices_sha256"] for record in GOLDEN["files"]}
    assert printed(_DECODE, environment) == expected
