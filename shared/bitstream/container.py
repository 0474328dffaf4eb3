"""Reading, writing and truncating .fwf files."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import google_crc32c

from shared.bitstream import varint
from shared.errors import BitstreamError
from shared.limits import DEFAULT_LIMITS, Limits

MAGIC = b"\x89FWF"
FORMAT_VERSION = 3
BUNDLE_ID_BYTES = 8
_HEADER = struct.Struct("<4sB8sHHBB")
_CRC = struct.Struct("<I")
_PASSES = struct.Struct("<H")
HEADER_BYTES = _HEADER.size + _CRC.size
MAX_PASSES = 2**14 - 1
_MAX_STATE = 255
_PARTIAL_FLAG = 0x80


# Of each state's byte, which a layer's checksum begins with.
_STATE_CRCS = [int(google_crc32c.value(bytes([state]))) for state in range(_MAX_STATE + 1)]


@dataclass(frozen=True, slots=True)
class Layer:
    """What takes a picture from state ``state + 1`` to ``state``: one range coder message."""

    state: int
    payload: bytes

    @property
    def crc32c(self) -> int:
        """CRC-32C of the state (one byte) and the payload, for transport of a lone layer."""
        return int(google_crc32c.extend(_STATE_CRCS[self.state], self.payload))


@dataclass(frozen=True, slots=True)
class PartialLayer:
    """The first ``passes`` (1 to 2**14 - 1) of a layer's passes: one range coder message."""

    state: int
    passes: int
    payload: bytes

    @property
    def crc32c(self) -> int:
        """CRC-32C of the state (one byte), the passes (two) and the payload, for transport."""
        return _chain(0, _label(self.state, self.passes), self.payload)


@dataclass(frozen=True, slots=True)
class Bitstream:
    """One picture as an embedded bitstream.

    bundle_id: first 8 bytes of the bundle's id. width, height: pixels. state: the finest complete
    state. layers: whole, coarsest first, states falling by one down to ``state``. partial: what
    has come of the next finer layer.
    """

    bundle_id: bytes
    width: int
    height: int
    state: int
    layers: tuple[Layer, ...]
    partial: PartialLayer | None = None

    def to_bytes(self) -> bytes:
        """The .fwf file. Raises BitstreamError when the fields contradict each other."""
        self.check()
        header = _HEADER.pack(
            MAGIC,
            FORMAT_VERSION,
            self.bundle_id,
            self.width,
            self.height,
            self.state,
            len(self.layers) | (_PARTIAL_FLAG if self.partial is not None else 0),
        )
        parts = [header, _CRC.pack(google_crc32c.value(header))]
        crc = _chain_start(header)
        for layer in self.layers:
            crc = _chain(crc, _label(layer.state), layer.payload)
            parts += [varint.encode(len(layer.payload)), _CRC.pack(crc), layer.payload]
        if self.partial is not None:
            payload = self.partial.payload
            crc = _chain(crc, _label(self.partial.state, self.partial.passes), payload)
            parts += [varint.encode(self.partial.passes), varint.encode(len(payload))]
            parts += [_CRC.pack(crc), payload]
        return b"".join(parts)

    @classmethod
    def from_bytes(
        cls, data: bytes, *, limits: Limits = DEFAULT_LIMITS, allow_cut: bool = False
    ) -> Bitstream:
        """Parse a .fwf file.

        With ``allow_cut`` a file whose end is missing yields the finest state that is complete;
        any other damage raises all the same. Raises BitstreamError with reason ``bad_magic``,
        ``bad_version``, ``truncated``, ``crc_mismatch``, ``limit_exceeded``, ``bad_size``,
        ``bad_state``, ``bad_passes``, ``bad_length`` or ``trailing_bytes``, and the offset.
        """
        if len(data) > limits.max_file_bytes:
            raise BitstreamError(
                "limit_exceeded",
                f"the file has {len(data)} bytes, more than {limits.max_file_bytes}",
            )
        width, height, state, count, bundle_id, has_partial = _parse_header(data, limits)
        layers: list[Layer] = []
        offset = HEADER_BYTES
        crc = _chain_start(data[: _HEADER.size])
        partial: PartialLayer | None = None
        try:
            for here in range(state + count - 1, state - 1, -1):
                payload, offset, crc = _parse_layer(data, offset, crc, here, None, limits)
                layers.append(Layer(here, payload))
            if has_partial:
                partial, offset = _parse_partial(data, offset, crc, state - 1, limits)
        except BitstreamError as error:
            if allow_cut and error.reason == "truncated" and layers:
                return cls(bundle_id, width, height, layers[-1].state, tuple(layers))
            raise
        if offset != len(data):
            raise BitstreamError(
                "trailing_bytes", f"{len(data) - offset} bytes follow the last layer", offset=offset
            )
        return cls(bundle_id, width, height, state, tuple(layers), partial)

    def truncate(self, state: int) -> Bitstream:
        """The same picture at a complete ``state``, without decoding anything.

        Raises BitstreamError ``bad_state`` when that state is not present.
        """
        if not self.state <= state <= self.layers[0].state:
            coarsest = self.layers[0].state
            there = f"are {self.state} to {coarsest}"
            if self.state == coarsest:
                there = f"is {coarsest} alone, which is not made of coarser ones"
            raise BitstreamError(
                "bad_state", f"state {state} is not present; there {there}", state=state
            )
        kept = tuple(layer for layer in self.layers if layer.state >= state)
        return Bitstream(self.bundle_id, self.width, self.height, state, kept)

    def cumulative_bytes(self) -> dict[int, int]:
        """Bytes of the file when truncated to each complete state, coarsest first."""
        total = HEADER_BYTES
        sizes: dict[int, int] = {}
        for layer in self.layers:
            total += layer_bytes(len(layer.payload))
            sizes[layer.state] = total
        return sizes

    @property
    def passes(self) -> int:
        """Passes that have come of the next finer layer; 0 where there is no part of it."""
        return self.partial.passes if self.partial is not None else 0

    @property
    def file_bytes(self) -> int:
        """Length of :meth:`to_bytes`'s result."""
        total = HEADER_BYTES + sum(layer_bytes(len(layer.payload)) for layer in self.layers)
        if self.partial is not None:
            total += partial_layer_bytes(self.partial.passes, len(self.partial.payload))
        return total

    @property
    def bits_per_pixel(self) -> float:
        """Bits of the whole file, headers included, per pixel of the picture."""
        return 8.0 * self.file_bytes / (self.width * self.height)

    def check(self, limits: Limits = DEFAULT_LIMITS) -> None:
        """Raise BitstreamError unless the fields fit each other and the limits."""
        if len(self.bundle_id) != BUNDLE_ID_BYTES:
            raise BitstreamError("bad_bundle_id", "a bundle id here has 8 bytes")
        _check_header(self.width, self.height, self.state, len(self.layers), limits)
        expected = range(self.state + len(self.layers) - 1, self.state - 1, -1)
        if [layer.state for layer in self.layers] != list(expected):
            raise BitstreamError("bad_state", "layers must fall by one state each")
        if self.partial is not None:
            _check_partial(self.partial.state, self.partial.passes, self.state)
        everything: list[Layer | PartialLayer] = [*self.layers]
        if self.partial is not None:
            everything.append(self.partial)
        for layer in everything:
            if len(layer.payload) > limits.max_layer_bytes:
                raise BitstreamError(
                    "limit_exceeded", f"layer of state {layer.state}: {len(layer.payload)} bytes"
                )


def layer_bytes(payload_bytes: int) -> int:
    """Bytes that a layer of ``payload_bytes`` takes in the file, framing included."""
    return varint.size(payload_bytes) + _CRC.size + payload_bytes


def partial_layer_bytes(passes: int, payload_bytes: int) -> int:
    """Bytes that the first ``passes`` of a layer take in the file, framing included."""
    return varint.size(passes) + layer_bytes(payload_bytes)


def _chain_start(header: bytes) -> int:
    """The checksums begin with what truncation leaves alone: bundle id, width and height."""
    return int(google_crc32c.value(header[5:17]))


def _chain(crc: int, label: bytes, payload: bytes) -> int:
    return int(google_crc32c.extend(google_crc32c.extend(crc, label), payload))


def _label(state: int, passes: int | None = None) -> bytes:
    """Which layer, or the first passes of which: what its checksum covers before the payload."""
    return bytes([state]) + (b"" if passes is None else _PASSES.pack(passes))


def _parse_header(data: bytes, limits: Limits) -> tuple[int, int, int, int, bytes, bool]:
    if not data.startswith(MAGIC):
        if MAGIC.startswith(data):
            raise BitstreamError("truncated", "the data end inside the header", offset=len(data))
        raise BitstreamError("bad_magic", "this is not a .fwf file", offset=0)
    if len(data) < HEADER_BYTES:
        raise BitstreamError("truncated", "the data end inside the header", offset=len(data))
    _, version, bundle_id, width, height, state, count = _HEADER.unpack_from(data)
    if version != FORMAT_VERSION:
        raise BitstreamError(
            "bad_version",
            f"the file has format version {version}, but this release of Featherwire reads "
            f"{FORMAT_VERSION}; use the release that wrote it, or a newer one",
            offset=4,
        )
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if crc != google_crc32c.value(data[: _HEADER.size]):
        raise BitstreamError("crc_mismatch", "the header is damaged", offset=_HEADER.size)
    has_partial = bool(count & _PARTIAL_FLAG)
    if has_partial:
        count -= _PARTIAL_FLAG
    _check_header(width, height, state, count, limits)
    if has_partial and state == 0:
        raise BitstreamError("bad_state", "nothing can follow state 0", offset=18)
    return width, height, state, count, bundle_id, has_partial


def _check_header(width: int, height: int, state: int, count: int, limits: Limits) -> None:
    for side in (width, height):
        if not limits.min_side <= side <= limits.max_side:
            raise BitstreamError(
                "bad_size",
                f"{width}x{height} pixels; sides must be {limits.min_side} to {limits.max_side}",
                offset=13,
            )
    if not 1 <= count <= limits.max_layers:
        raise BitstreamError("limit_exceeded", f"{count} layers", offset=18)
    if state < 0 or state + count - 1 > _MAX_STATE:
        raise BitstreamError("bad_state", f"state {state} with {count} layers", offset=17)


def _check_partial(state: int, passes: int, whole_state: int) -> None:
    if state != whole_state - 1 or state < 0:
        raise BitstreamError("bad_state", f"a partial layer of state {state} after {whole_state}")
    if not 1 <= passes <= MAX_PASSES:
        raise BitstreamError("bad_passes", f"{passes} passes; there are 1 to {MAX_PASSES}")


def _parse_partial(
    data: bytes, offset: int, crc: int, state: int, limits: Limits
) -> tuple[PartialLayer, int]:
    start = offset
    passes, offset = varint.decode(data, offset)
    if not 1 <= passes <= MAX_PASSES:
        raise BitstreamError(
            "bad_passes", f"{passes} passes; there are 1 to {MAX_PASSES}", offset=start
        )
    payload, offset, _ = _parse_layer(data, offset, crc, state, passes, limits)
    return PartialLayer(state, passes, payload), offset


def _parse_layer(
    data: bytes, offset: int, crc: int, state: int, passes: int | None, limits: Limits
) -> tuple[bytes, int, int]:
    """Length, checksum and payload; ``passes`` of a partial layer."""
    start = offset
    length, offset = varint.decode(data, offset)
    if length > limits.max_layer_bytes:
        raise BitstreamError(
            "limit_exceeded",
            f"layer of state {state}: {length} bytes, more than {limits.max_layer_bytes}",
            offset=start,
        )
    if offset + _CRC.size + length > len(data):
        raise BitstreamError(
            "truncated", f"the data end inside the layer of state {state}", offset=start
        )
    (expected,) = _CRC.unpack_from(data, offset)
    offset += _CRC.size
    payload = data[offset : offset + length]
    crc = _chain(crc, _label(state, passes), payload)
    if crc != expected:
        raise BitstreamError(
            "crc_mismatch", f"the layer of state {state} is damaged", offset=offset
        )
    return payload, offset + length, crc
