"""Version 4 of the file: what it holds, what it costs, and that no damage passes."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.bitstream import Bitstream, Layer, PartialLayer, Reference, is_file
from shared.bitstream.container import layer_bytes, read_header
from shared.bitstream.layers import MAX_DISTANCE, MAX_PASSES, MAX_STATE
from shared.errors import BitstreamError
from shared.limits import Limits

BUNDLE = b"\x01\x02\x03\x04\x05\x06\x07\x08"
REFERENCE = Reference(1, b"\xaa\xbb\xcc\xdd")


def make(
    states: int = 3,
    finest: int = 0,
    size: tuple[int, int] = (640, 480),
    *,
    payload: int = 40,
    reference: Reference | None = None,
) -> Bitstream:
    layers = tuple(
        Layer(state, bytes([state]) * (payload * (states - k)))
        for k, state in enumerate(range(finest + states - 1, finest - 1, -1))
    )
    return Bitstream(BUNDLE, *size, finest, layers, version=4, reference=reference)


def whole() -> Bitstream:
    """With all that a file can have."""
    made = make(finest=1, size=(641, 480), reference=REFERENCE)
    return dataclasses.replace(made, partial=PartialLayer(0, 200, b"\x05" * 30))


references = st.builds(Reference, st.integers(1, MAX_DISTANCE), st.binary(min_size=4, max_size=4))


@st.composite
def bitstreams(draw: st.DrawFn) -> Bitstream:
    payloads = draw(st.lists(st.binary(max_size=300), min_size=1, max_size=64))
    finest = draw(st.integers(0, MAX_STATE + 1 - len(payloads)))
    top = finest + len(payloads) - 1
    partial = None
    if finest > 0 and draw(st.booleans()):
        passes = draw(st.integers(1, MAX_PASSES))
        partial = PartialLayer(finest - 1, passes, draw(st.binary(max_size=300)))
    sides = st.integers(16, 8192) | st.integers(2, 1024).map(lambda side: 8 * side)
    return Bitstream(
        draw(st.binary(min_size=8, max_size=8)),
        draw(sides),
        draw(sides),
        finest,
        tuple(Layer(top - k, payload) for k, payload in enumerate(payloads)),
        partial,
        4,
        draw(st.none() | references),
    )


# -- what it holds -------------------------------------------------------------------------------


@given(bitstreams())
def test_a_file_reads_back_as_what_was_written(bitstream: Bitstream) -> None:
    data = bitstream.to_bytes()
    found = Bitstream.from_bytes(data)
    assert found == bitstream
    assert hash(found) == hash(bitstream)
    assert found.bundle_id == bitstream.bundle_id[:4]
    assert found.made_with(bitstream.bundle_id)
    assert found.to_bytes() == data
    assert len(data) == bitstream.file_bytes
    assert is_file(data)


@given(bitstreams())
def test_a_sessions_bytes_are_those_of_the_file_but_for_the_bundle(bitstream: Bitstream) -> None:
    data = bitstream.to_bytes(with_bundle=False)
    assert len(data) == bitstream.file_bytes - 4
    found = Bitstream.from_bytes(data, bundle_id=bitstream.bundle_id)
    assert (found, found.bundle_id) == (bitstream, bitstream.bundle_id)
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(data)
    assert refused.value.reason == "bundle_missing"


@given(bitstreams())
def test_every_prefix_holds_the_states_that_are_complete(bitstream: Bitstream) -> None:
    data = bitstream.to_bytes()
    layers_at = bitstream.header_bytes(bitstream.state, len(bitstream.layers))
    behind = 0
    for layer, (state, size) in zip(
        bitstream.layers, bitstream.cumulative_bytes().items(), strict=True
    ):
        truncated = bitstream.truncate(state)
        assert (truncated.version, truncated.reference) == (4, bitstream.reference)
        written = truncated.to_bytes()
        assert len(written) == size
        behind += layer_bytes(len(layer.payload), 4)
        # The layers are the same bytes; only the header is written anew.
        assert written[-behind:] == data[layers_at : layers_at + behind]
        assert Bitstream.from_bytes(data[: layers_at + behind], allow_cut=True) == truncated


@pytest.mark.parametrize("length", range(whole().file_bytes))
def test_a_cut_file_is_refused_or_read_coarser_but_never_wrong(length: int) -> None:
    made = whole()
    cut = made.to_bytes()[:length]
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(cut)
    assert refused.value.reason == "truncated"
    try:
        read = Bitstream.from_bytes(cut, allow_cut=True)
    except BitstreamError as error:
        assert error.reason == "truncated"  # noqa: PT017
        assert length < made.header_bytes(1, 3) + layer_bytes(120, 4)
    else:
        assert read == made.truncate(read.state)


@pytest.mark.parametrize("layers", [1, 15, 16, 64])
@pytest.mark.parametrize("finest", [0, 13, 14, 15, 191])
def test_many_layers_and_states_need_bytes_of_their_own(layers: int, finest: int) -> None:
    made = make(layers, finest, payload=0)
    data = made.to_bytes()
    assert Bitstream.from_bytes(data) == made
    assert len(data) == made.file_bytes == 11 + (finest > 14) + (layers > 15) + 3 * layers


# -- what it costs -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "header"),
    [((16, 16), 11), ((640, 480), 11), ((1920, 1080), 11), ((2048, 2048), 11), ((641, 480), 12),
     ((17, 4095), 12), ((4096, 4095), 12), ((4097, 16), 12), ((8191, 8192), 13)],
)  # fmt: skip
def test_a_header_has_eleven_or_twelve_bytes(size: tuple[int, int], header: int) -> None:
    made = make(1, size=size)
    assert made.header_bytes(0, 1) == header
    assert len(made.to_bytes()) == header + layer_bytes(40, 4)
    assert Bitstream.from_bytes(made.to_bytes()) == made


def test_a_session_repeats_no_bundle_and_no_frame_pays_for_a_reference_that_it_lacks() -> None:
    made = make(1)
    assert len(made.to_bytes(with_bundle=False)) == 7 + layer_bytes(40, 4)
    predicted = dataclasses.replace(made, reference=REFERENCE)
    assert predicted.file_bytes == made.file_bytes + 1 + 4


@pytest.mark.parametrize(("payload", "framing"), [(0, 3), (1, 3), (127, 3), (128, 3), (16383, 3)])
def test_a_layer_costs_three_bytes_at_most(payload: int, framing: int) -> None:
    assert layer_bytes(payload, 4) == payload + framing
    layers = tuple(Layer(state, b"x" * payload) for state in (1, 0))
    two = Bitstream(BUNDLE, 640, 480, 0, layers, version=4)
    sizes = two.cumulative_bytes()
    assert sizes[0] - sizes[1] == two.file_bytes - two.truncate(1).file_bytes == framing + payload


def test_layers_need_no_grid() -> None:
    """A class of ten bits, a vector, a map: the container only counts bytes."""
    layers = tuple(Layer(63 - k, bytes([k] * (k % 3))) for k in range(64))
    made = Bitstream(BUNDLE, 16, 16, 0, layers, version=4)
    assert Bitstream.from_bytes(made.to_bytes()) == made
    assert made.file_bytes == 12 + sum(3 + k % 3 for k in range(64))


# -- damage --------------------------------------------------------------------------------------


def test_no_changed_byte_passes() -> None:
    data = whole().to_bytes()
    for offset in range(len(data)):
        for change in range(1, 256):
            damaged = bytearray(data)
            damaged[offset] ^= change
            with pytest.raises(BitstreamError):
                Bitstream.from_bytes(bytes(damaged))


def test_a_cut_file_with_a_changed_byte_is_no_other_picture() -> None:
    """Where the end is missing two bytes a short layer vouch, for all layers up to it."""
    made = whole()
    data = made.to_bytes()[:-1]
    coarser = {made.truncate(state) for state in (1, 2, 3)}
    wrong = 0
    for offset in range(len(data)):
        for change in range(1, 256):
            damaged = bytearray(data)
            damaged[offset] ^= change
            try:
                wrong += Bitstream.from_bytes(bytes(damaged), allow_cut=True) not in coarser
            except BitstreamError:
                continue
    assert wrong < 255 * len(data) / 2**14  # 1 in 2**16 of random damage, codecs see the rest


def test_a_layer_of_another_picture_does_not_pass() -> None:
    made = make()
    start = made.header_bytes(0, 3)
    own = start + layer_bytes(120, 4)
    for other in (
        make(size=(648, 480)),
        dataclasses.replace(made, bundle_id=b"another!"),
        dataclasses.replace(made, layers=(Layer(2, b"\x07" * 120), *made.layers[1:])),
    ):
        mixed = made.to_bytes()[:own] + other.to_bytes()[own:]
        with pytest.raises(BitstreamError) as refused:
            Bitstream.from_bytes(mixed, allow_cut=True)
        assert refused.value.reason == "crc_mismatch"


def test_bytes_of_a_session_with_another_bundle_are_refused() -> None:
    data = make().to_bytes(with_bundle=False)
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(data, bundle_id=b"another!")
    assert refused.value.reason == "crc_mismatch"
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(make().to_bytes(), bundle_id=b"another!")
    assert refused.value.reason == "wrong_bundle"


@pytest.mark.parametrize(
    ("header", "reason", "offset"),
    [
        (b"\x89", "truncated", 1),
        (b"\x89\xd0", "truncated", 2),
        (b"\x89\xd0\x01", "truncated", 3),
        (b"\x89\xf0\x01\x4f\x3b", "bad_version", 1),  # a version to come
        (b"\x89\xd3\x01\x03\x3b", "bad_header", 3),  # more flags, which say nothing
        (b"\x89\xd3\x01\x08\x3b", "bad_header", 3),  # a flag that there is not
        (b"\x89\xd3\x01\x07\x3b", "bad_header", 3),  # a form of sides that there is not
        (b"\x89\xd0\xf1\x0e\x4f\x3b", "bad_header", 3),  # a state that fits into its half byte
        (b"\x89\xd0\x00\x0f\x4f\x3b", "bad_header", 3),  # a number of layers that does
        (b"\x89\xd1\x01\x7f\xf2\x1d", "bad_header", 3),  # 640x480, longer than needed
        (b"\x89\xd2\x01\x80\x05\xe0\x03", "bad_header", 3),
        (b"\x89\xd2\x01\x80\x80\x80\x80\x01", "bad_length", 3),
        (b"\x89\xd0\x01\x00\x3b" + bytes(6), "bad_size", 3),  # 8 pixels
        (b"\x89\xd2\x01\xff\xff\x03\x10" + bytes(6), "bad_size", 3),
        (b"\x89\xd0\x00\x41\x4f\x3b" + bytes(6), "limit_exceeded", 2),  # 65 layers
        (b"\x89\xd0\x00\x00\x4f\x3b" + bytes(6), "limit_exceeded", 2),
        (b"\x89\xd0\xff\xff\x4f\x3b" + bytes(6), "bad_state", 2),
        (b"\x89\xd8\x01\x4f\x3b" + bytes(6), "bad_state", 2),  # a part behind state 0
        (b"\x89\xd4\x01\x4f\x3b\x00" + bytes(10), "bad_reference", 5),
        (b"\x89\xd4\x01\x4f\x3b\x80\x00" + bytes(10), "bad_length", 5),
        (b"\x89\xd4\x01\x4f\x3b\x01\x00", "truncated", 7),
    ],
)
def test_a_forged_header_is_named_with_its_place(header: bytes, reason: str, offset: int) -> None:
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(header, allow_cut=True)
    assert (refused.value.reason, refused.value.offset) == (reason, offset)


@given(st.binary(max_size=60))
@settings(max_examples=500)
def test_any_bytes_are_a_file_or_a_typed_error(tail: bytes) -> None:
    for begins in (b"\x89\xc0", b"\x89\xd0", b"\x89\xde", b"\x89\xff", b"\x89FWF"):
        try:
            found = Bitstream.from_bytes(begins + tail, allow_cut=True, bundle_id=b"")
        except BitstreamError as error:
            assert error.message  # noqa: PT017
        else:
            found.check()


def test_a_length_over_the_limit_is_refused_before_anything_is_read() -> None:
    made = make(1)
    begins = made.to_bytes()[: made.header_bytes(0, 1)]
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(begins + b"\xff\xff\xff\x7f" + bytes(9))
    assert refused.value.reason == "limit_exceeded"
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(made.to_bytes(), limits=Limits(max_layer_bytes=39))
    assert refused.value.reason == "limit_exceeded"
    with pytest.raises(BitstreamError) as refused:
        Bitstream.from_bytes(made.to_bytes() + b"!")
    assert refused.value.reason == "trailing_bytes"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bundle_id": b"short"}, "bad_bundle_id"),
        ({"version": 5}, "bad_version"),
        ({"version": 3, "reference": REFERENCE}, "bad_version"),
        ({"reference": Reference(0, b"\0" * 4)}, "bad_reference"),
        ({"reference": Reference(MAX_DISTANCE + 1, b"\0" * 4)}, "bad_reference"),
        ({"reference": Reference(1, b"\0" * 32)}, "bad_reference"),
        ({"layers": ()}, "limit_exceeded"),
        ({"state": 1}, "bad_state"),
    ],
)
def test_contradictory_fields_are_not_written(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(BitstreamError) as refused:
        dataclasses.replace(make(), **changes).to_bytes()  # type: ignore[arg-type]
    assert refused.value.reason == reason


def test_a_header_can_be_read_alone() -> None:
    header, size = read_header(whole().to_bytes())
    assert size == whole().header_bytes(1, 3)
    assert (header.version, header.state, header.layers, header.has_partial) == (4, 1, 3, True)
    assert (header.width, header.height, header.reference) == (641, 480, REFERENCE)


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (
            Bitstream(BUNDLE, 640, 480, 0, (Layer(0, b"\x2a"),), version=4),
            "89 d0 01 4f3b 01020304 d5f2 01 d6ec 2a",
        ),
        (
            Bitstream(
                BUNDLE,
                641,
                480,
                1,
                (Layer(2, b"\x2a"), Layer(1, b"")),
                PartialLayer(0, 200, b"ab"),
                4,
                Reference(300, b"wxyz"),
            ),
            "89 dd 12 80f21d ac02 7778797a 01020304 950f 01 a5fb 2a 00 1315 c801 02 76a2 6162",
        ),
    ],
)
def test_the_bytes_are_for_ever(made: Bitstream, expected: str) -> None:
    assert made.to_bytes() == bytes.fromhex(expected)
    assert Bitstream.from_bytes(bytes.fromhex(expected)) == made
