"""The header of version 4 says that a photo had no colour."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bitstream import Bitstream, Layer, PartialLayer, Reference
from shared.bitstream.container import read_header
from shared.errors import BitstreamError

BUNDLE = bytes(range(1, 9))
LAYERS = tuple(Layer(state, bytes([state]) * 9) for state in (3, 2, 1))
SIDES = [(640, 480), (641, 480), (8191, 17)]
"""In every form in which a header has them."""


def grey(size: tuple[int, int] = SIDES[0], **more: object) -> Bitstream:
    return Bitstream(BUNDLE, *size, 1, LAYERS, version=4, grey=True, **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("size", SIDES)
@pytest.mark.parametrize("reference", [None, Reference(3, b"abcd")])
@pytest.mark.parametrize("partial", [None, PartialLayer(0, 2, b"part")])
def test_it_comes_back_and_takes_one_byte(
    size: tuple[int, int], reference: Reference | None, partial: PartialLayer | None
) -> None:
    made = grey(size, reference=reference, partial=partial)
    again = Bitstream.from_bytes(made.to_bytes())
    assert again.grey
    assert again == dataclasses.replace(made, bundle_id=BUNDLE[:4])
    assert len(made.to_bytes()) == made.file_bytes
    coloured = dataclasses.replace(made, grey=False)
    assert made.file_bytes == coloured.file_bytes + 1
    assert made.cumulative_bytes()[3] == coloured.cumulative_bytes()[3] + 1
    assert not read_header(coloured.to_bytes())[0].grey
    assert read_header(made.to_bytes(with_bundle=False))[0].grey


def test_a_coarser_state_is_grey_too_and_the_same_file() -> None:
    made = grey()
    cut = made.truncate(2)
    assert cut.grey
    begun = Bitstream.from_bytes(made.to_bytes(), bundle_id=BUNDLE).truncate(2)
    assert begun.to_bytes() == cut.to_bytes()
    part = Bitstream.from_bytes(made.to_bytes()[:-3], allow_cut=True, bundle_id=BUNDLE)
    assert (part.grey, part.state) == (True, 2)


def test_layers_of_a_grey_photo_never_pass_for_those_of_a_coloured_one() -> None:
    data = bytearray(grey().to_bytes())
    plain = bytearray(dataclasses.replace(grey(), grey=False).to_bytes())
    forged = plain[:3] + plain[3:]
    forged[1] = data[1]
    forged[3:3] = data[3:4]
    assert len(forged) == len(data)
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(bytes(forged))
    assert refused.value.reason in ("crc_mismatch", "bad_length", "truncated", "limit_exceeded")


@given(st.integers(0, 255))
def test_flags_that_no_encoder_writes_are_refused(flags: int) -> None:
    data = bytearray(grey().to_bytes())
    good = data[3]
    data[3] = flags
    if flags == good:
        assert Bitstream.from_bytes(bytes(data)).grey
        return
    with pytest.raises(BitstreamError):
        Bitstream.from_bytes(bytes(data))


def test_version_3_cannot_say_it() -> None:
    with pytest.raises(BitstreamError) as refused:
        dataclasses.replace(grey(), version=3).to_bytes()
    assert refused.value.reason == "bad_version"
