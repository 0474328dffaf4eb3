"""The .fwf container: round trips, truncation, and what version 3 says about bad bytes."""

from __future__ import annotations

import dataclasses
import struct

import google_crc32c
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.bitstream import Bitstream, Layer, PartialLayer, varint
from shared.bitstream.format3 import HEADER_BYTES
from shared.bitstream.layers import MAX_PASSES
from shared.errors import BitstreamError
from shared.limits import Limits


def make(states: int = 3, finest: int = 0, size: tuple[int, int] = (640, 480)) -> Bitstream:
    layers = tuple(
        Layer(state, bytes([state]) * (40 * (states - k)))
        for k, state in enumerate(range(finest + states - 1, finest - 1, -1))
    )
    return Bitstream(b"bundleid", *size, finest, layers, version=3)


def header_with(data: bytes, **fields: int) -> bytes:
    """The file with header fields changed and the header's checksum made right again."""
    places = {"version": ("B", 4), "width": ("<H", 13), "height": ("<H", 15)}
    places |= {"state": ("B", 17), "layers": ("B", 18)}
    header = bytearray(data[: HEADER_BYTES - 4])
    for name, value in fields.items():
        kind, offset = places[name]
        struct.pack_into(kind, header, offset, value)
    crc = struct.pack("<I", google_crc32c.value(bytes(header)))
    return bytes(header) + crc + data[HEADER_BYTES:]


@st.composite
def bitstreams(draw: st.DrawFn) -> Bitstream:
    payloads = draw(st.lists(st.binary(max_size=300), min_size=1, max_size=12))
    finest = draw(st.integers(0, 200))
    top = finest + len(payloads) - 1
    partial = None
    if finest > 0 and draw(st.booleans()):
        passes = draw(st.integers(1, MAX_PASSES))
        partial = PartialLayer(finest - 1, passes, draw(st.binary(max_size=300)))
    return Bitstream(
        draw(st.binary(min_size=8, max_size=8)),
        draw(st.integers(16, 8192)),
        draw(st.integers(16, 8192)),
        finest,
        tuple(Layer(top - k, payload) for k, payload in enumerate(payloads)),
        partial,
        version=3,
    )


@given(bitstreams())
def test_a_file_reads_back_as_what_was_written(bitstream: Bitstream) -> None:
    data = bitstream.to_bytes()
    assert Bitstream.from_bytes(data) == bitstream
    assert len(data) == bitstream.file_bytes


@given(bitstreams())
def test_every_prefix_holds_the_states_that_are_complete(bitstream: Bitstream) -> None:
    data = bitstream.to_bytes()
    for state, size in bitstream.cumulative_bytes().items():
        truncated = bitstream.truncate(state)
        assert len(truncated.to_bytes()) == size
        assert Bitstream.from_bytes(data[:size], allow_cut=True) == truncated


def make_partial() -> Bitstream:
    return dataclasses.replace(make(finest=1), partial=PartialLayer(0, 200, b"\x05" * 30))


@pytest.mark.parametrize("length", range(make_partial().file_bytes))
def test_a_file_cut_in_its_partial_layer_is_read_without_it(length: int) -> None:
    whole = make_partial()
    cut = whole.to_bytes()[:length]
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(cut)
    assert refused.value.reason == "truncated"
    if length >= whole.cumulative_bytes()[3]:
        read = Bitstream.from_bytes(cut, allow_cut=True)
        assert read == whole.truncate(read.state)
        assert read.partial is None


def test_every_byte_of_a_partial_layer_is_under_its_checksum() -> None:
    data = make_partial().to_bytes()
    for offset in range(make(finest=1).file_bytes, len(data)):
        damaged = bytearray(data)
        damaged[offset] ^= 1
        with pytest.raises(BitstreamError):
            Bitstream.from_bytes(bytes(damaged), allow_cut=False)


def test_a_partial_layer_costs_nothing_where_there_is_none() -> None:
    """The flag is a bit of the number of layers."""
    data, plain = make_partial().to_bytes(), make(finest=1).to_bytes()
    assert data[18] == plain[18] | 0x80
    assert data[HEADER_BYTES : len(plain)] == plain[HEADER_BYTES:]
    # passes (two LEB128 bytes), length, checksum, payload
    assert len(data) == len(plain) + 2 + 1 + 4 + 30


@pytest.mark.parametrize(
    ("passes", "reason"), [(b"\x00", "bad_passes"), (b"\xff\xff\x01", "bad_passes"),
                          (b"\x80\x00", "bad_length"), (b"\x05", "crc_mismatch")]
)  # fmt: skip
def test_forged_numbers_of_passes_are_named(passes: bytes, reason: str) -> None:
    data = make_partial().to_bytes()
    place = make(finest=1).file_bytes
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(data[:place] + passes + data[place + 2 :])
    assert refused.value.reason == reason


def test_nothing_follows_the_finest_state() -> None:
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(header_with(make().to_bytes(), layers=3 | 0x80))
    assert refused.value.reason == "bad_state"
    with pytest.raises(BitstreamError):
        dataclasses.replace(make(), partial=PartialLayer(-1, 1, b"")).to_bytes()


@pytest.mark.parametrize("version", [1, 2, 4, 255])
def test_another_version_says_what_to_do(version: int) -> None:
    with pytest.raises(BitstreamError, match="use the release that wrote it") as refused:
        Bitstream.from_bytes(header_with(make().to_bytes(), version=version))
    assert refused.value.reason == "bad_version"


@pytest.mark.parametrize("length", range(make().file_bytes))
def test_a_cut_file_is_refused_or_read_coarser_but_never_wrong(length: int) -> None:
    whole = make()
    cut = whole.to_bytes()[:length]
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(cut)
    assert refused.value.reason == "truncated"
    first_layer_end = whole.cumulative_bytes()[2]
    if length < first_layer_end:
        with pytest.raises(BitstreamError, match="end inside"):
            Bitstream.from_bytes(cut, allow_cut=True)
    else:
        read = Bitstream.from_bytes(cut, allow_cut=True)
        assert read == whole.truncate(read.state)


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"version": 2}, "bad_version"),
        ({"version": 0}, "bad_version"),
        ({"width": 15}, "bad_size"),
        ({"height": 0}, "bad_size"),
        ({"width": 8193}, "bad_size"),
        ({"layers": 0}, "limit_exceeded"),
        ({"layers": 65}, "limit_exceeded"),
        ({"state": 254}, "bad_state"),
        ({"state": 1}, "crc_mismatch"),
        ({"width": 641}, "crc_mismatch"),
        ({"layers": 2}, "trailing_bytes"),
        ({"layers": 4}, "crc_mismatch"),
    ],
)
def test_a_forged_header_is_named(fields: dict[str, int], reason: str) -> None:
    # A changed state or layer count shifts the states that the layers' checksums cover.
    data = header_with(make().to_bytes(), **fields)
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(data, allow_cut=True)
    expected = {reason} | ({"crc_mismatch"} if "layers" in fields else set())
    assert refused.value.reason in expected


def test_no_magic_is_no_fwf() -> None:
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(b"\xff\xd8\xff\xe0 this is a JPEG file of some length")
    assert (refused.value.reason, refused.value.offset) == ("bad_magic", 0)


def test_bytes_behind_the_last_layer_are_refused() -> None:
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(make().to_bytes() + b"!")
    assert refused.value.reason == "trailing_bytes"


def test_a_layer_of_another_picture_does_not_pass() -> None:
    """Splicing: same bundle, same size, same state, valid checksums of its own."""
    one, other = make(), make()
    spliced = dataclasses.replace(
        other, layers=(Layer(2, b"\x07" * 120), *other.layers[1:])
    ).to_bytes()
    own = one.cumulative_bytes()[2]
    mixed = one.to_bytes()[:own] + spliced[own:]
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(mixed, allow_cut=True)
    assert refused.value.reason == "crc_mismatch"


def test_a_length_over_the_limit_is_refused_before_anything_is_read() -> None:
    header = make(states=1).to_bytes()[:HEADER_BYTES]
    huge = header + varint.encode(2**28 - 1) + b"\0" * 4
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(huge)
    assert refused.value.reason == "limit_exceeded"


def test_a_file_over_the_limit_is_refused() -> None:
    data = make().to_bytes()
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(data, limits=Limits(max_file_bytes=len(data) - 1))
    assert refused.value.reason == "limit_exceeded"


@pytest.mark.parametrize("state", [-1, 3, 9])
def test_truncating_to_a_state_that_is_not_there_says_which_are(state: int) -> None:
    with pytest.raises(BitstreamError, match="there are 0 to 2"):
        make().truncate(state)


def test_writing_contradictory_fields_is_refused() -> None:
    good = make()
    for broken in (
        dataclasses.replace(good, bundle_id=b"short"),
        dataclasses.replace(good, state=1),
        dataclasses.replace(good, layers=good.layers[::-1]),
        dataclasses.replace(good, layers=()),
    ):
        with pytest.raises(BitstreamError):
            broken.to_bytes()
    with pytest.raises(BitstreamError) as refused:
        good.check(Limits(max_layer_bytes=100))
    assert refused.value.reason == "limit_exceeded"


@given(st.integers(0, 2**28 - 1))
def test_varints_round_trip(value: int) -> None:
    data = varint.encode(value)
    assert varint.decode(data + b"\xff", 0) == (value, len(data))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "truncated"),
        (b"\x80", "truncated"),
        (b"\x80\x00", "bad_length"),
        (b"\xff\xff\xff\xff\x01", "bad_length"),
    ],
)
def test_bad_varints_are_named(data: bytes, reason: str) -> None:
    with pytest.raises(BitstreamError) as refused:
        varint.decode(data, 0)
    assert refused.value.reason == reason


def test_varints_outside_their_range_cannot_be_written() -> None:
    for value in (-1, 2**28):
        with pytest.raises(ValueError, match="does not fit"):
            varint.encode(value)


def test_errors_carry_reason_offset_and_message_for_machines() -> None:
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(b"\x89FW")
    assert refused.value.to_dict() == {
        "error": "BitstreamError",
        "reason": "truncated",
        "message": "the data end inside the header (at byte 3)",
        "offset": 3,
    }


def test_a_lone_layers_checksum_covers_its_state() -> None:
    assert Layer(1, b"abc").crc32c != Layer(2, b"abc").crc32c
    assert Layer(1, b"abc").crc32c == google_crc32c.value(b"\x01abc")
    assert PartialLayer(1, 2, b"abc").crc32c == google_crc32c.value(b"\x01\x02\0abc")


def test_bits_per_pixel_counts_the_whole_file() -> None:
    bitstream = make(size=(100, 80))
    assert bitstream.bits_per_pixel == pytest.approx(8 * len(bitstream.to_bytes()) / 8000)
