"""JPEGs whose end marker is missing: whether their pixels are all there.

Some cameras never write the marker (EOI, ITU-T T.81, B.2.1), and a file that was cut by two bytes
has lost nothing else. libjpeg shows such pictures, and those of which half is missing too, with
a grey half; which of the two it is it tells nobody through Pillow.
"""

from __future__ import annotations

import hashlib
import io

from PIL import Image

from shared.limits import DEFAULT_LIMITS, Limits
from shared.preprocess.geometry import check_sides

START = b"\xff\xd8\xff"
END = b"\xff\xd9"
# Ordinary progressive JPEGs have about ten scans; each one walks over the whole picture.
MAX_JPEG_SCANS = 50

_SOS = 0xDA
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_ALONE = frozenset({0x00, 0x01, *range(0xD0, 0xDA)})  # stuffing, TEM, RST0..7, SOI, EOI
_COEFFICIENTS = 64
_RESTARTS = [bytes((0xFF, marker)) for marker in range(0xD0, 0xD8)]


def _filling(pattern: bytes) -> bytes:
    return b"".join(pattern * 32 + restart for restart in _RESTARTS * 2)


# Bits where pixels are still to come: unlike each other from the first on, with the markers that a
# decoder may wait for. Without any, libjpeg takes zeros.
_FILLINGS = (
    b"",
    _filling(b"\xd6\x39\x8b\x5c"),
    _filling(b"\x6b\xa4\xe1\x97"),
    _filling(b"\x9a\x72"),
)


def with_end(data: bytes, *, exactly: bool = True, limits: Limits = DEFAULT_LIMITS) -> bytes | None:
    """A JPEG that lacks its end marker, with it; None when pixels are missing as well.

    Bytes between the last pixel and the marker are skipped by every decoder, and before it they are
    taken for pixels. So the picture is decoded with several fillings before the marker: they come
    out alike only where no pixel was wanted any more.

    exactly: decode all of it four times; otherwise at an eighth of its sides, in a quarter of the
    time, where what is missing of the last block of 8x8 is not seen. What is beyond ``limits``, or
    has too many scans, is not decoded, and None.
    """
    if not data.startswith(START) or not _has_all_scans(data):
        return None
    data = data.rstrip(b"\xff")  # half a marker, and fill bytes before it
    first = None
    for filling in _FILLINGS:
        try:
            pixels = _pixels(data + filling + END, exactly, limits)
        except Exception:  # noqa: BLE001 - a decoder of hostile bytes may raise anything at all
            return None
        first = first or pixels
        if pixels != first:
            return None
    return data + END


def _pixels(data: bytes, exactly: bool, limits: Limits) -> bytes:
    """A hash of the pixels."""
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        check_sides(*image.size, limits)
        if not exactly and "progressive" not in image.info:
            image.draft(None, (max(1, image.width // 8), max(1, image.height // 8)))
        image.load()
        return hashlib.sha256(image.tobytes()).digest()


def _has_all_scans(data: bytes) -> bool:
    """Whether every coefficient of every component is in a scan, to its last bit (T.81, G.1), and
    there are not so many scans that decoding them takes very long."""
    missing: dict[int, list[int]] = {}
    at, scans = 2, 0
    while (at := data.find(b"\xff", at)) >= 0 and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF or marker in _ALONE:
            at += 1 if marker == 0xFF else 2
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        part = data[at + 4 : end]
        if len(part) < end - at - 4 or not part:
            return False
        if marker in _FRAMES:
            missing = {number: [1] * _COEFFICIENTS for number in part[6::3]}
        elif marker == _SOS:
            scans += 1
            components, (first, last, bits) = part[1 : 1 + 2 * part[0] : 2], part[-3:]
            for number in components:
                for one in range(first, min(last, _COEFFICIENTS - 1) + 1):
                    missing.setdefault(number, [1] * _COEFFICIENTS)[one] = bits & 0x0F
        at = end
    return scans <= MAX_JPEG_SCANS and bool(missing) and not any(map(any, missing.values()))
