"""Photo files of any maker as pixels, or a PhotoError with the reason.

Bytes are not believed: the file's length is checked before it is read, the format must be one
of ``FORMATS`` (Pillow also knows formats that start other programs), and the sides that the
header claims are checked before any pixel is decoded.

Reasons of PhotoError: ``not_found``, ``unreadable`` (no image, a damaged one, or a format we
do not read), ``empty``, ``truncated`` (the file ends before its pixels do), ``too_small``,
``too_large`` (sides, in pixels), ``too_many_bytes``, ``too_complex`` (a JPEG made of so many
scans that decoding it would take very long), ``unsupported`` (pixel values without a range).
"""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from shared.errors import PhotoError
from shared.limits import DEFAULT_LIMITS, Limits
from shared.names import text_of
from shared.preprocess.colour import to_srgb
from shared.preprocess.geometry import check_sides
from shared.preprocess.jpeg import MAX_JPEG_SCANS, with_end

FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "GIF", "BMP", "PPM")

_EXIF_ORIENTATION = 0x0112
# EXIF 2.32, tag 0x0112: what turns the stored picture upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_START_OF_SCAN = 0xDA
_END_OF_IMAGE = 0xD9
_STANDALONE = {0x01, *range(0xD0, 0xD9)}  # markers without a length: TEM, RST0..7, SOI


def load_photo(
    source: str | os.PathLike[str] | bytes | bytearray | memoryview,
    *,
    limits: Limits = DEFAULT_LIMITS,
) -> NDArray[np.uint8]:
    """The photo at a path, or in bytes, upright, as C-contiguous uint8 HxWx3 sRGB.

    EXIF orientation is applied, of a file with several frames the first is taken, and
    ``shared.preprocess.colour`` says how other kinds of pixels become RGB. Raises PhotoError.
    """
    if isinstance(source, bytes | bytearray | memoryview):
        data = bytes(source)
        _check_bytes(len(data), limits)
    else:
        data = _read(Path(source), limits)
    try:
        with _loaded(data, limits) as image:
            return to_srgb(_upright(image))
    except PhotoError:
        raise
    except Exception as error:  # a decoder of hostile bytes may raise anything at all
        raise _refusal(error, data) from error


def _read(path: Path, limits: Limits) -> bytes:
    name = text_of(path)
    try:
        status = path.stat()  # before opening: to open a named pipe would wait for a writer
        if not stat.S_ISREG(status.st_mode):
            raise PhotoError("unreadable", f"{name} is not a regular file", path=name)
        _check_bytes(status.st_size, limits)
        with path.open("rb") as file:
            return file.read(limits.max_photo_bytes)
    except FileNotFoundError as error:
        raise PhotoError("not_found", f"there is no file {name}", path=name) from error
    except (OSError, ValueError) as error:  # ValueError: a path with a null character
        why = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise PhotoError("unreadable", f"cannot read {name}: {why}", path=name) from error


def _check_bytes(photo_bytes: int, limits: Limits) -> None:
    if photo_bytes == 0:
        raise PhotoError("empty", "the photo has no bytes")
    if photo_bytes > limits.max_photo_bytes:
        raise PhotoError(
            "too_many_bytes",
            f"the photo has {photo_bytes} bytes; the limit is {limits.max_photo_bytes}",
            photo_bytes=photo_bytes,
        )


def _open(data: bytes, limits: Limits) -> Image.Image:
    """The image with its header parsed and its sides checked, its pixels not yet decoded."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    check_sides(*image.size, limits)
    if image.format in ("JPEG", "MPO") and jpeg_scans(data) > MAX_JPEG_SCANS:
        raise PhotoError("too_complex", f"the JPEG has more than {MAX_JPEG_SCANS} scans")
    return image


def _loaded(data: bytes, limits: Limits) -> Image.Image:
    """The image with its pixels; a JPEG's end marker is not missed."""
    image = _open(data, limits)
    try:
        image.load()
    except OSError:
        ended = with_end(data, limits=limits)
        if ended is None:
            raise
        image = _open(ended, limits)
        image.load()
    return image


def _upright(image: Image.Image) -> Image.Image:
    try:
        orientation = image.getexif().get(_EXIF_ORIENTATION)
    except Exception:  # noqa: BLE001 - damaged EXIF does not make the photo unreadable
        return image
    method = _UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    if method is None:
        return image
    turned = image.transpose(method)
    turned.format = image.format
    return turned


def _refusal(error: Exception, data: bytes) -> PhotoError:
    if isinstance(error, Image.DecompressionBombError | Image.DecompressionBombWarning):
        return PhotoError("too_large", str(error))
    if len(data) < claimed_bytes(data) or "truncated" in str(error).lower():
        return PhotoError("truncated", "the file ends before its pixels do")
    if isinstance(error, UnidentifiedImageError):
        return PhotoError("unreadable", f"not a photo in one of: {', '.join(FORMATS)}")
    return PhotoError("unreadable", f"the photo cannot be decoded: {error}")


def claimed_bytes(data: bytes) -> int:
    """The length in bytes that a RIFF (WebP) file claims; 0 for other formats."""
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
