"""Bitstreams of both formats as messages, names of bundles on a stream, and what ends agree on."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from shared.bitstream import FORMAT_VERSION, FORMAT_VERSIONS, Bitstream, Layer, Reference
from shared.errors import BitstreamError, FeatherwireError, SessionError
from shared.proto.featherwire.v1 import ingest_pb2, types_pb2
from shared.wire.device_protocol import DeviceProtocol
from shared.wire.features import features_message, file_bytes, header_of, parse_features
from shared.wire.formats import (
    WRITTEN,
    agreed_version,
    complete_id,
    from_index,
    short_ids,
    to_index,
)
from shared.wire.requests import Frame, Hello, frame_message, hello_message, parse_hello
from tests.support.hostile_bitstreams import mutate

ID = "0123456789abcdef" * 4
OTHER = "fedcba9876543210" * 4
SHORT = bytes.fromhex(ID[:16])
REFERENCE = Reference(3, b"sums")


def made(version: int, reference: Reference | None = None) -> Bitstream:
    layers = tuple(Layer(state, bytes([65 + state]) * 40) for state in (2, 1, 0))
    return Bitstream(SHORT, 640, 480, 0, layers, version=version, reference=reference)


# -- messages ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bitstream", [made(3), made(4), made(4, REFERENCE)])
def test_features_say_the_same_as_the_file(bitstream: Bitstream) -> None:
    message = features_message(bitstream)
    assert parse_features(message) == bitstream
    assert parse_features(message).bundle_id == bitstream.bundle_id
    assert file_bytes(message) == bitstream.file_bytes
    header = header_of(message)
    assert (header.version, header.state, header.layers) == (bitstream.version, 0, 3)
    assert header.reference == bitstream.reference


def test_a_bitstream_of_format_4_costs_its_file_and_three_bytes() -> None:
    accepted = short_ids([ID])
    message = features_message(made(4))
    assert message.ByteSize() == made(4).file_bytes - 4 + 3 + 10  # of them 10 of the bundle's id
    to_index(message, accepted)
    assert message.ByteSize() == made(4).file_bytes - 4 + 3
    assert features_message(made(3)).ByteSize() > message.ByteSize() + 25


def test_a_message_of_two_minds_is_refused() -> None:
    good = features_message(made(4))
    for change in (
        {"width": 640},
        {"layers": [types_pb2.Layer()]},
        {"partial": types_pb2.PartialLayer()},
    ):
        message = types_pb2.Features(**change)
        message.MergeFrom(good)
        with pytest.raises(SessionError) as refused:
            parse_features(message)
        assert refused.value.reason == "invalid_message"
    as_file = types_pb2.Features(bundle_short_id=SHORT, container=made(3).to_bytes())
    with pytest.raises(SessionError, match="format 3 come as layers"):
        parse_features(as_file)


def test_mutants_are_refused_typed_or_are_what_was_sent() -> None:
    rng = np.random.default_rng(4)
    data = made(4, REFERENCE).to_bytes(with_bundle=False)
    other = replace(made(4), layers=made(4).layers[:1], state=2).to_bytes(with_bundle=False)
    for _ in range(3000):
        message = types_pb2.Features(bundle_short_id=SHORT, container=mutate(data, other, rng))
        try:
            found = parse_features(message)
        except FeatherwireError as error:
            assert isinstance(error, BitstreamError)  # noqa: PT017
        else:
            assert found in (made(4, REFERENCE), replace(made(4), layers=found.layers, state=2))


# -- names of bundles ----------------------------------------------------------------------------


def test_a_place_in_the_list_is_a_name() -> None:
    accepted = short_ids([OTHER, ID])
    message = features_message(made(4))
    to_index(message, accepted)
    assert (message.bundle_index, message.bundle_short_id) == (1, b"")
    with pytest.raises(BitstreamError):  # it is a name for who has the list alone
        parse_features(message)
    from_index(message, accepted)
    assert message == features_message(made(4))
    # A bundle that the server did not list, and a frame that servers of before read, keep the id.
    for one in (replace(made(4), bundle_id=b"unlisted"), made(3)):
        message = features_message(one)
        to_index(message, accepted)
        assert message == features_message(one)
    with pytest.raises(BitstreamError) as refused:
        from_index(types_pb2.Features(container=b"x", bundle_index=2), accepted)
    assert refused.value.reason == "bad_bundle_id"


def test_a_wrong_place_is_found_by_the_checksums() -> None:
    message = features_message(made(4))
    to_index(message, short_ids([ID, OTHER]))
    from_index(message, short_ids([OTHER, ID]))
    with pytest.raises(BitstreamError) as refused:
        parse_features(message)
    assert refused.value.reason == "crc_mismatch"


def test_the_id_of_a_file_is_completed_where_that_is_sure() -> None:
    read = Bitstream.from_bytes(made(4).to_bytes())
    for accepted, whole in (
        ([OTHER, ID], True),
        ([OTHER], False),
        ([ID, ID[:8] + OTHER[:56]], False),
    ):
        message = features_message(read)
        complete_id(message, short_ids(accepted))
        assert message.bundle_short_id == (SHORT if whole else SHORT[:4])


# -- agreement -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("read", "written", "version"),
    [((), (), 3), ((), (3, 4), 3), ((3, 4), (), 3), ((3, 4), (3, 4), 4), ((4, 5, 6), (3, 4), 4)],
)
def test_the_highest_version_that_both_know_is_used(
    read: tuple[int, ...], written: tuple[int, ...], version: int
) -> None:
    assert agreed_version(read, written, "it") == version


def test_ends_that_have_none_in_common_are_told() -> None:
    with pytest.raises(
        SessionError, match=r"it reads .* version 5 and 6, this client writes 3 and 4"
    ):
        agreed_version((6, 5), (3, 4), "it")
    hello = hello_message(Hello("d", "s", format_versions=(9,)))
    with pytest.raises(SessionError, match="version 9, this server reads 3 and 4") as refused:
        parse_hello(hello)
    assert refused.value.reason == "format_unsupported"
    assert parse_hello(hello_message(Hello("d", "s"))).format_versions == ()
    hello.format_versions[:] = [3] * 1000
    with pytest.raises(SessionError) as refused:
        parse_hello(hello)
    assert refused.value.reason == "invalid_message"


def test_this_release_reads_what_it_writes_and_what_came_before() -> None:
    assert FORMAT_VERSION in WRITTEN
    assert set(WRITTEN) <= set(FORMAT_VERSIONS)
    assert 3 in WRITTEN


def opened(hello: Hello, **welcome: object) -> DeviceProtocol[None]:
    protocol = DeviceProtocol[None](hello, remembers=True)
    protocol.connect(0.0)
    protocol.next_message()
    take_welcome(protocol, **welcome)
    return protocol


def take_welcome(protocol: DeviceProtocol[None], **welcome: object) -> None:
    message = ingest_pb2.Welcome(protocol_version=1, credits=4, **welcome)  # type: ignore[arg-type]
    protocol.receive(ingest_pb2.ConnectResponse(welcome=message), 0.0)


def sent_features(protocol: DeviceProtocol[None]) -> types_pb2.Features:
    data = protocol.next_message()
    assert data is not None
    return ingest_pb2.ConnectRequest.FromString(data).frame.features[0]


def test_a_frame_that_is_sent_again_names_its_bundle_as_the_next_server_lists_it() -> None:
    protocol = opened(
        Hello("d", "s", format_versions=(3, 4)),
        accepted_bundle_ids=[OTHER, ID],
        format_versions=[3, 4],
    )
    assert protocol.format_version == 4
    read = Bitstream.from_bytes(made(4).to_bytes())  # with four bytes of its id
    message = frame_message(Frame(1, (read,)))
    sent = protocol.send_frame(message, None, 0.0)
    assert sent.key == (1, SHORT, 0)
    assert (sent_features(protocol).bundle_index, message.features[0].bundle_index) == (1, 0)
    protocol.disconnected()
    protocol.connect(1.0)
    protocol.next_message()
    take_welcome(protocol, accepted_bundle_ids=[ID], format_versions=[3, 4])
    again = sent_features(protocol)
    assert (again.bundle_index, again.bundle_short_id) == (0, b"")
    from_index(again, short_ids([ID]))
    assert parse_features(again) == made(4)


def test_a_server_that_lists_no_ids_breaks_the_protocol() -> None:
    protocol = opened(Hello("d", "s"), accepted_bundle_ids=["no id"])
    assert protocol.failure is not None
    assert protocol.failure.reason == "invalid_message"
