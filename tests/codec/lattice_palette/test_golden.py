"""What encoding the golden files' values again gives; see also the contract's test."""

from __future__ import annotations

import pytest

from codec.lattice_palette.coding import LatticeCodec
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.targets import RateTarget
from tests.support.contract import golden, golden_folder

FOLDER = golden_folder("lattice-palette")


@pytest.fixture(scope="module")
def codec() -> LatticeCodec:
    return LatticeCodec(Bundle.load(FOLDER / "bundle.zip"))


@pytest.mark.parametrize(
    "record", golden("lattice-palette")["files"], ids=lambda record: record["file"]
)
def test_what_golden_files_decode_to_is_coded_to_the_golden_bytes(
    codec: LatticeCodec, record: dict[str, str]
) -> None:
    data = (FOLDER / record["file"]).read_bytes()
    bitstream = Bitstream.from_bytes(data)
    if bitstream.partial is None:
        decoded = codec.decode(bitstream)
        size = bitstream.width, bitstream.height
        again = codec.encode(
            decoded.scales,
            *size,
            RateTarget(state=bitstream.state),
            version=bitstream.version,
        )
        assert again.to_bytes() == data
