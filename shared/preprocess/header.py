"""The little that is read from a photo's bytes by ourselves, because Pillow does not tell it."""

from __future__ import annotations

_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length: TEM, RST0..7, SOI


def claimed_bytes(data: bytes) -> int:
    """How long a RIFF (WebP) file says it is, in bytes; 0 for other formats."""
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return 8 + int.from_bytes(data[4:8], "little")
    return 0


def jpeg_scans(data: bytes) -> int:
    """Scans in the first picture of a JPEG file (ITU-T T.81, B.1.1); thumbnails do not count."""
    scans = 0
    at = 2  # past SOI
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)  # inside entropy-coded data, or damage: next marker
            if at < 0:
                break
            continue
        marker = data[at + 1]
        if marker == _END_OF_IMAGE:
            break
        if marker == 0xFF:  # fill byte
            at += 1
        elif marker == 0 or marker in _STANDALONE:  # a stuffed 0xFF, or a marker alone
            at += 2
        else:
            scans += marker == _START_OF_SCAN
            at += 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return scans
