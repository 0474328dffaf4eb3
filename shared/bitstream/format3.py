"""Version 3 of the file: 23 bytes of header, four bytes of checksum a layer. Read for ever."""

from __future__ import annotations

import struct

import google_crc32c

from shared.bitstream.layers import Header
from shared.errors import BitstreamError
from shared.limits import Limits

VERSION = 3
MAGIC = b"\x89FWF"
BUNDLE_ID_BYTES = 8
CHECK_BYTES = 4


def layer_check_bytes(payload_bytes: int) -> int:
    """Of the running checksum, behind a layer's length: all."""
    del payload_bytes
    return CHECK_BYTES


_HEADER = struct.Struct("<4sB8sHHBB")
_CRC = struct.Struct("<I")
HEADER_BYTES = _HEADER.size + _CRC.size
_PARTIAL_FLAG = 0x80


def write_header(header: Header) -> bytes:
    """The 23 bytes before the layers."""
    begins = _HEADER.pack(
        MAGIC,
        VERSION,
        header.bundle_id,
        header.width,
        header.height,
        header.state,
        header.layers | (_PARTIAL_FLAG if header.has_partial else 0),
    )
    return begins + _CRC.pack(google_crc32c.value(begins))


def read_header(data: bytes, limits: Limits) -> Header:
    """The header of data that begin with ``MAGIC``, or with a part of it.

    Raises BitstreamError: ``truncated``, ``bad_version``, ``crc_mismatch``, and what
    :meth:`Header.check` raises.
    """
    if len(data) < HEADER_BYTES:
        raise BitstreamError("truncated", "the data end inside the header", offset=len(data))
    _, version, bundle_id, width, height, state, count = _HEADER.unpack_from(data)
    if version != VERSION:
        raise BitstreamError(
            "bad_version",
            f"the file has format version {version}, but this release of Featherwire reads 3 and "
            "4; use the release that wrote it, or a newer one",
            offset=4,
        )
    (crc,) = _CRC.unpack_from(data, _HEADER.size)
    if crc != google_crc32c.value(data[: _HEADER.size]):
        raise BitstreamError("crc_mismatch", "the header is damaged", offset=_HEADER.size)
    has_partial = bool(count & _PARTIAL_FLAG)
    count &= ~_PARTIAL_FLAG
    header = Header(VERSION, bundle_id, width, height, state, count, has_partial, None)
    header.check(limits, sides_at=13, state_at=17)
    return header


def chain_start(header: Header) -> int:
    """The checksums begin with what truncation leaves alone: bundle id, width and height."""
    return int(google_crc32c.value(write_header(header)[5:17]))
