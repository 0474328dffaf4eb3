"""Version 4 of the file: a header of 7 to 12 bytes or so, three bytes a layer.

See FORMAT.md for the bytes, and for why they are no more.
"""

from __future__ import annotations

import struct

import google_crc32c

from shared.bitstream import varint
from shared.bitstream.layers import REFERENCE_CHECKSUM_BYTES, Header, Reference
from shared.errors import BitstreamError
from shared.limits import Limits

VERSION = 4
FIRST_BYTE = 0x89
BUNDLE_ID_BYTES = 4
"""Of a bundle's id, in a file on its own; bytes of a session have none."""
SHORT_LAYER = 1 << 7
"""From so many bytes of payload on, its length takes two bytes."""
CHECK_BYTES = 2

# The second byte: 110 and five flags. 111 is of versions to come; version 3 has an "F" there.
_VERSION_MASK, _VERSION_BITS = 0xE0, 0xC0
_LATER_BITS = 0xE0
_HAS_BUNDLE, _HAS_PARTIAL, _HAS_REFERENCE = 0x10, 0x08, 0x04
_SIDES_MASK = 0x03
_EIGHTHS, _TWELVE_BITS, _VARINTS, _MORE_FLAGS = range(4)
# With the last of these forms a byte of more flags follows, which has the form in its place.
_GREY = 0x04
_LATER_FLAGS = 0xFF ^ _GREY ^ _SIDES_MASK
# The third byte: a state and a number of layers, or that they follow in bytes of their own.
_STATE_FOLLOWS, _LAYERS_FOLLOW = 15, 0
_MOST_EIGHTHS = 8 * 256
_MOST_TWELVE_BITS = 1 << 12
_INVARIANT = struct.Struct("<BII")


def layer_check_bytes(payload_bytes: int) -> int:
    """Of the running checksum, behind a layer's length: what makes three bytes of both, as far as
    they go. Of a short message the codec's own check sees less, so that it needs more of this one.
    """
    return 2 if payload_bytes < SHORT_LAYER else 1


def begins(data: bytes) -> bool:
    """Whether data can be of this version, or of a later one."""
    return (
        len(data) > 1
        and data[0] == FIRST_BYTE
        and data[1] & _VERSION_MASK in (_VERSION_BITS, _LATER_BITS)
    )


def header_bytes(header: Header) -> int:
    """Bytes before the layers."""
    return len(_fields(header)) + CHECK_BYTES


def write_header(header: Header, crc: int) -> bytes:
    """The bytes before the layers. crc: the running CRC-32C behind the last layer."""
    fields = _fields(header)
    return fields + _check(fields, crc)


def read_header(data: bytes, limits: Limits) -> tuple[Header, int]:
    """The header of data of which :func:`begins` is true, and its bytes.

    Only :func:`check_whole` and the layers' checksums vouch for what it says. Raises
    BitstreamError: ``truncated``, ``bad_version``, ``bad_header`` for what no encoder writes,
    ``bad_length``, ``bad_reference``, and what :meth:`Header.check` raises.
    """
    flags, offset = data[1], 2
    if flags & _VERSION_MASK != _VERSION_BITS:
        raise BitstreamError(
            "bad_version",
            "the file has a later format version than 4, the last that this release of "
            "Featherwire reads; use a newer release",
            offset=1,
        )
    (packed,), offset = _take(data, offset, 1)
    state, count = packed >> 4, packed & 0x0F
    if state == _STATE_FOLLOWS:
        (state,), offset = _take(data, offset, 1)
        if state < _STATE_FOLLOWS:
            raise _no_encoder("a state", offset - 1)
    if count == _LAYERS_FOLLOW:
        (count,), offset = _take(data, offset, 1)
        if 0 < count <= 0x0F:
            raise _no_encoder("a number of layers", offset - 1)
    form, grey = flags & _SIDES_MASK, False
    if form == _MORE_FLAGS:
        (more,), offset = _take(data, offset, 1)
        form, grey = more & _SIDES_MASK, bool(more & _GREY)
        if more & _LATER_FLAGS or not grey or form == _MORE_FLAGS:
            raise _no_encoder("flags", offset - 1)
    sides_at = offset
    width, height, offset = _read_sides(data, offset, form)
    reference: Reference | None = None
    if flags & _HAS_REFERENCE:
        reference_at = offset
        distance, offset = varint.decode(data, offset)
        checksum, offset = _take(data, offset, REFERENCE_CHECKSUM_BYTES)
        if distance == 0:
            raise BitstreamError(
                "bad_reference", "a frame cannot refer to itself", offset=reference_at
            )
        reference = Reference(distance, checksum)
    bundle_id = b""
    if flags & _HAS_BUNDLE:
        bundle_id, offset = _take(data, offset, BUNDLE_ID_BYTES)
    _, offset = _take(data, offset, CHECK_BYTES)
    has_partial = bool(flags & _HAS_PARTIAL)
    header = Header(VERSION, bundle_id, width, height, state, count, has_partial, reference, grey)
    header.check(limits, sides_at=sides_at, state_at=2)
    return header, offset


def chain_start(header: Header, bundle_id: bytes) -> int:
    """The checksums begin with what truncation leaves alone.

    bundle_id: four bytes or more; those of a session do not have it, and their checksums do.
    """
    crc = google_crc32c.value(_INVARIANT.pack(VERSION, header.width, header.height))
    crc = google_crc32c.extend(crc, bundle_id[:BUNDLE_ID_BYTES])
    crc = google_crc32c.extend(crc, bytes([_GREY]) if header.grey else b"")
    return int(google_crc32c.extend(crc, _reference_bytes(header.reference)))


def check_whole(data: bytes, size: int, crc: int) -> None:
    """Raise BitstreamError ``crc_mismatch`` unless header and layers belong together.

    size: bytes of the header. crc: the running CRC-32C behind the last layer.
    """
    fields = data[: size - CHECK_BYTES]
    if data[len(fields) : size] != _check(fields, crc):
        raise BitstreamError("crc_mismatch", "the header or a layer is damaged", offset=len(fields))


def _check(fields: bytes, crc: int) -> bytes:
    """The upper half: the lower has been seen, in part, behind the last layer's length."""
    return (int(google_crc32c.extend(crc, fields)) >> 16).to_bytes(CHECK_BYTES, "little")


def _fields(header: Header) -> bytes:
    form, sides = _write_sides(header.width, header.height)
    flags, later = _VERSION_BITS | form, b""
    if header.grey:
        flags, later = _VERSION_BITS | _MORE_FLAGS, bytes([_GREY | form])
    flags |= _HAS_BUNDLE if header.bundle_id else 0
    flags |= _HAS_PARTIAL if header.has_partial else 0
    flags |= _HAS_REFERENCE if header.reference is not None else 0
    state, count, more = header.state, header.layers, b""
    if state >= _STATE_FOLLOWS:
        more, state = bytes([state]), _STATE_FOLLOWS
    if count > 0x0F:
        more, count = more + bytes([count]), _LAYERS_FOLLOW
    return (
        bytes([FIRST_BYTE, flags, state << 4 | count])
        + more
        + later
        + sides
        + _reference_bytes(header.reference)
        + header.bundle_id[:BUNDLE_ID_BYTES]
    )


def _reference_bytes(reference: Reference | None) -> bytes:
    return b"" if reference is None else varint.encode(reference.distance) + reference.checksum


def _write_sides(width: int, height: int) -> tuple[int, bytes]:
    if _in_eighths(width, height):
        return _EIGHTHS, bytes([width // 8 - 1, height // 8 - 1])
    if _in_twelve_bits(width, height):
        return _TWELVE_BITS, (width - 1 | height - 1 << 12).to_bytes(3, "little")
    return _VARINTS, varint.encode(width) + varint.encode(height)


def _read_sides(data: bytes, offset: int, form: int) -> tuple[int, int, int]:
    """Width, height, and the offset behind them; in the shortest form that has them, only."""
    start = offset
    if form == _EIGHTHS:
        (width, height), offset = _take(data, offset, 2)
        return 8 * (width + 1), 8 * (height + 1), offset
    if form == _TWELVE_BITS:
        packed, offset = _take(data, offset, 3)
        both = int.from_bytes(packed, "little")
        width, height = (both & _MOST_TWELVE_BITS - 1) + 1, (both >> 12) + 1
        shortest = not _in_eighths(width, height)
    else:
        width, offset = varint.decode(data, offset)
        height, offset = varint.decode(data, offset)
        shortest = not (_in_eighths(width, height) or _in_twelve_bits(width, height))
    if not shortest:
        raise _no_encoder("sides", start)
    return width, height, offset


def _in_eighths(width: int, height: int) -> bool:
    return all(0 < side <= _MOST_EIGHTHS and side % 8 == 0 for side in (width, height))


def _in_twelve_bits(width: int, height: int) -> bool:
    return all(0 < side <= _MOST_TWELVE_BITS for side in (width, height))


def _take(data: bytes, offset: int, size: int) -> tuple[bytes, int]:
    if offset + size > len(data):
        raise BitstreamError("truncated", "the data end inside the header", offset=len(data))
    return data[offset : offset + size], offset + size


def _no_encoder(what: str, offset: int) -> BitstreamError:
    return BitstreamError("bad_header", f"no encoder writes {what} like that", offset=offset)
