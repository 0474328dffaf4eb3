"""Unsigned LEB128 numbers, shortest form only."""

from __future__ import annotations

from shared.errors import BitstreamError

MAX_BYTES = 4


def encode(value: int) -> bytes:
    """``value`` (0 to 2**28 - 1) as one to four bytes. Raises ValueError outside."""
    if not 0 <= value < 1 << (7 * MAX_BYTES):
        raise ValueError(f"{value} does not fit in {MAX_BYTES} LEB128 bytes")
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def size(value: int) -> int:
    """Bytes that ``encode`` takes for ``value`` (0 to 2**28 - 1)."""
    return (value.bit_length() + 6) // 7 or 1


def decode(data: bytes | memoryview, offset: int) -> tuple[int, int]:
    """The number at ``offset`` and the offset behind it.

    Raises BitstreamError: ``truncated`` when the data end, ``bad_length`` on a longer than
    needed or longer than four bytes form.
    """
    value = 0
    for position in range(MAX_BYTES):
        if offset + position >= len(data):
            raise BitstreamError("truncated", "the data end inside a length", offset=offset)
        byte = data[offset + position]
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            if byte == 0 and position > 0:
                raise BitstreamError(
                    "bad_length", "a length is not in shortest form", offset=offset
                )
            return value, offset + position + 1
    raise BitstreamError("bad_length", "a length has too many bytes", offset=offset)
