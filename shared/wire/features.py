"""Features on the wire and back: layers, bitstreams, and the several bitstreams of one picture.

A bitstream of format 3 travels as fields and layers, as it always has; one of format 4 as the bytes
of its file, without the bundle's id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from shared.bitstream import Bitstream, Layer, PartialLayer, format3, format4
from shared.bitstream.container import (
    BUNDLE_ID_BYTES,
    layer_bytes,
    partial_layer_bytes,
    read_header,
)
from shared.bitstream.layers import MAX_PASSES, MAX_STATE, Header
from shared.errors import BitstreamError, SessionError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.proto.featherwire.v1 import types_pb2
from shared.wire.transport import MAX_FRAME_BYTES

MAX_BITSTREAMS = 8
"""Descriptions of one picture in one frame, each by another bundle."""


# -- arriving ------------------------------------------------------------------------------------


def parse_bitstreams(
    messages: Sequence[types_pb2.Features], limits: Limits = DEFAULT_LIMITS
) -> tuple[Bitstream, ...]:
    """The bitstreams of one picture, in the order in which they came.

    Raises ``SessionError("invalid_message")`` for none, more than eight, or two of one bundle, and
    ``BitstreamError``: what ``parse_features`` raises, ``limit_exceeded`` for all of them together,
    ``size_mismatch`` when they are not of one picture.
    """
    if not 1 <= len(messages) <= MAX_BITSTREAMS:
        raise _invalid(f"are {len(messages)}, not 1 to {MAX_BITSTREAMS}")
    if len(messages) == 1:
        return (parse_features(messages[0], limits),)
    if len({message.bundle_short_id for message in messages}) != len(messages):
        raise _invalid("of one bundle come twice")
    check_together(sum(map(_payload_bytes, messages)), limits)
    bitstreams = tuple(parse_features(message, limits) for message in messages)
    first = bitstreams[0]
    for other in bitstreams[1:]:
        if (other.width, other.height) != (first.width, first.height):
            raise BitstreamError(
                "size_mismatch",
                f"{other.width}x{other.height} pixels beside {first.width}x{first.height}: not of "
                "one picture",
            )
    return bitstreams


def parse_features(message: types_pb2.Features, limits: Limits = DEFAULT_LIMITS) -> Bitstream:
    """Check sizes, order and checksums; raises ``BitstreamError``.

    That the layers suit the bundle is the codec's to say.
    """
    if message.container:
        return _of_container(message, limits)
    if message.HasField("partial"):
        check_together(_payload_bytes(message), limits)
    bitstream = Bitstream(
        bundle_id=message.bundle_short_id,
        width=message.width,
        height=message.height,
        state=message.state,
        layers=parse_layers(message.layers, limits),
        partial=_partial(message) if message.HasField("partial") else None,
        version=format3.VERSION,
    )
    bitstream.check(limits)
    return bitstream


def header_of(message: types_pb2.Features) -> Header:
    """What the features say of themselves, before anything is checked but a container's form.

    Raises ``BitstreamError``.
    """
    if message.container:
        return read_header(message.container)[0]
    return Header(
        format3.VERSION,
        message.bundle_short_id,
        message.width,
        message.height,
        message.state,
        len(message.layers),
        message.HasField("partial"),
        None,
    )


def parse_layers(
    messages: Iterable[types_pb2.Layer], limits: Limits = DEFAULT_LIMITS
) -> tuple[Layer, ...]:
    """Check number, sizes, order and checksums of whole layers; raises ``BitstreamError``."""
    messages = list(messages)
    if not 1 <= len(messages) <= limits.max_layers:
        raise BitstreamError(
            "limit_exceeded", f"{len(messages)} layers, not 1 to {limits.max_layers}"
        )
    payloads = [message.payload for message in messages]
    check_together(sum(map(len, payloads)), limits)
    layers = []
    coarsest = messages[0].state
    for number, (message, payload) in enumerate(zip(messages, payloads, strict=True)):
        state = message.state
        if state > MAX_STATE or state != coarsest - number:
            raise BitstreamError(
                "bad_state", f"layer {number} has state {state}; states fall by one"
            )
        if len(payload) > limits.max_layer_bytes:
            raise BitstreamError(
                "limit_exceeded",
                f"layer of state {state}: {len(payload)} bytes, more than {limits.max_layer_bytes}",
            )
        layer = Layer(state, payload)
        if layer.crc32c != message.crc32c:
            raise BitstreamError("crc_mismatch", f"the layer of state {state} is damaged")
        layers.append(layer)
    return tuple(layers)


def parse_short_id(short_id: bytes) -> bytes:
    """The first eight bytes of a bundle's id, or none. Raises ``BitstreamError``."""
    if short_id and len(short_id) != BUNDLE_ID_BYTES:
        raise BitstreamError("bad_bundle_id", f"a bundle id here has {BUNDLE_ID_BYTES} bytes")
    return short_id


def check_together(total_bytes: int, limits: Limits = DEFAULT_LIMITS) -> None:
    """Raise ``BitstreamError("limit_exceeded")`` for more bytes of layers than a frame may have."""
    max_bytes = min(MAX_FRAME_BYTES, limits.max_file_bytes)
    if total_bytes > max_bytes:
        raise BitstreamError(
            "limit_exceeded", f"the layers take {total_bytes} bytes, more than {max_bytes}"
        )


# -- leaving -------------------------------------------------------------------------------------


def features_message(bitstream: Bitstream) -> types_pb2.Features:
    """A bitstream as its message. Raises ``BitstreamError`` when its fields contradict each
    other."""
    if bitstream.version != format3.VERSION:
        return types_pb2.Features(
            bundle_short_id=bitstream.bundle_id,
            container=bitstream.to_bytes(with_bundle=False),
        )
    return types_pb2.Features(
        bundle_short_id=bitstream.bundle_id,
        width=bitstream.width,
        height=bitstream.height,
        state=bitstream.state,
        layers=[layer_message(layer) for layer in bitstream.layers],
        partial=_partial_message(bitstream.partial),
    )


def layer_message(layer: Layer) -> types_pb2.Layer:
    """A layer as its message, with its checksum."""
    return types_pb2.Layer(state=layer.state, payload=layer.payload, crc32c=layer.crc32c)


def passes_of(message: types_pb2.Features) -> int:
    """Passes of a part of the next layer; 0 without one, and of what is damaged."""
    if not message.container:
        return message.partial.passes
    try:
        if not header_of(message).has_partial:
            return 0
        return Bitstream.from_bytes(message.container, bundle_id=message.bundle_short_id).passes
    except BitstreamError:
        return 0


def file_bytes(message: types_pb2.Features) -> int:
    """Bytes of the .fwf file of the same layers."""
    if message.container:
        return len(message.container) + format4.BUNDLE_ID_BYTES
    total = format3.HEADER_BYTES
    total += sum(layer_bytes(len(one.payload), format3.VERSION) for one in message.layers)
    if message.HasField("partial"):
        partial = message.partial
        total += partial_layer_bytes(partial.passes, len(partial.payload), format3.VERSION)
    return total


# -- parts ---------------------------------------------------------------------------------------


def _of_container(message: types_pb2.Features, limits: Limits) -> Bitstream:
    if message.layers or message.HasField("partial") or message.width or message.height:
        raise _invalid("come both as layers and as the bytes of a file")
    if len(parse_short_id(message.bundle_short_id)) != BUNDLE_ID_BYTES:
        raise BitstreamError("bad_bundle_id", "features of no bundle")
    check_together(len(message.container), limits)
    bitstream = Bitstream.from_bytes(
        message.container, limits=limits, bundle_id=message.bundle_short_id
    )
    if bitstream.version == format3.VERSION:
        raise _invalid("of format 3 come as layers")
    return bitstream


def _payload_bytes(message: types_pb2.Features) -> int:
    if message.container:
        return len(message.container)
    return len(message.partial.payload) + sum(len(layer.payload) for layer in message.layers)


def _partial(features: types_pb2.Features) -> PartialLayer:
    message = features.partial
    if not 1 <= features.state <= MAX_STATE or not 1 <= message.passes <= MAX_PASSES:
        raise BitstreamError(
            "bad_passes", f"{message.passes} passes after state {features.state} are impossible"
        )
    layer = PartialLayer(features.state - 1, message.passes, message.payload)
    if layer.crc32c != message.crc32c:
        raise BitstreamError("crc_mismatch", f"the layer of state {layer.state} is damaged")
    return layer


def _partial_message(layer: PartialLayer | None) -> types_pb2.PartialLayer | None:
    if layer is None:
        return None
    return types_pb2.PartialLayer(passes=layer.passes, payload=layer.payload, crc32c=layer.crc32c)


def _invalid(complaint: str) -> SessionError:
    return SessionError("invalid_message", f"features {complaint}", field="features")
