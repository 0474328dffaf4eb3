"""Today's bytes of the lattice codec decode the same for ever, on any processor."""

from __future__ import annotations

import hashlib
import json

import pytest

from codec.lattice_palette.codec import LatticeCodec
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.targets import RateTarget
from tests.golden.make import index_hash
from tests.golden.make_lattice import FOLDER
from tests.support.processors import ENVIRONMENTS, printed

GOLDEN = json.loads((FOLDER / "golden.json").read_text())


@pytest.fixture(scope="module")
def codec() -> LatticeCodec:
    bundle = Bundle.load(FOLDER / "bundle.zip")
    assert bundle.id == GOLDEN["bundle_id"]
    return LatticeCodec(bundle)


@pytest.mark.parametrize("record", GOLDEN["files"], ids=lambda record: record["file"])
def test_golden_files_decode_to_the_same_values_and_code_to_the_same_bytes(
    codec: LatticeCodec, record: dict[str, str]
) -> None:
    data = (FOLDER / record["file"]).read_bytes()
    assert hashlib.sha256(data).hexdigest() == record["file_sha256"]
    bitstream = Bitstream.from_bytes(data)
    assert index_hash(codec.decode_values(bitstream)) == record["values_sha256"]
    if bitstream.partial is None:
        decoded = codec.decode(bitstream)
        size = bitstream.width, bitstream.height
        again = codec.encode(decoded.scales, *size, RateTarget(state=bitstream.state))
        assert again.to_bytes() == data


_DECODE = """
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from codec.lattice_palette.codec import LatticeCodec
from tests.golden.make import index_hash
from tests.golden.make_lattice import FOLDER
codec = LatticeCodec(Bundle.load(FOLDER / "bundle.zip"))
for path in sorted(FOLDER.glob("*.fwf")):
    print(path.name, index_hash(codec.decode_values(Bitstream.from_bytes(path.read_bytes()))))
"""


@pytest.mark.parametrize("environment", ENVIRONMENTS.values(), ids=list(ENVIRONMENTS))
def test_values_do_not_depend_on_threads_or_processor(environment: dict[str, str]) -> None:
    expected = {record["file"]: record["values_sha256"] for record in GOLDEN["files"]}
    assert printed(_DECODE, environment) == expected
