"""When a picture was taken, as well as that is known."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path

CLOCK_TRUST_S = 60.0
"""A camera's clock that is further from ours than this is not set."""
JUMP_S = 5.0
FORGET = 0.001
"""Seconds that the least delay may grow in a second: clocks drift."""

_EXIF_IFD = 0x8769
_DATE_TIME_ORIGINAL = 0x9003
_OFFSET_TIME_ORIGINAL = 0x9011
_SUBSECONDS_ORIGINAL = 0x9291


class LiveClock:
    """Times of a live stream: its own time stamps, on our clock.

    Pictures come late by the network's moods and never early, so the least delay that was seen is
    taken for everybody's: what is left of the moods is not in the times.
    """

    def __init__(self) -> None:
        self._offset_s: float | None = None
        self._seen_at = 0.0

    def at(self, stamp_s: float | None, arrived_at: float, zero_at: float | None = None) -> float:
        """Seconds since 1970 at which a picture was taken.

        stamp_s: the stream's own time of it. arrived_at: when it came. zero_at: the camera's word
        for when the stream's time was 0, used where its clock is set.
        """
        if stamp_s is None:
            return arrived_at
        if zero_at is not None and abs(zero_at + stamp_s - arrived_at) < CLOCK_TRUST_S:
            return zero_at + stamp_s
        offset_s = arrived_at - stamp_s
        if self._offset_s is not None:
            self._offset_s += FORGET * max(0.0, arrived_at - self._seen_at)
        if self._offset_s is None or not 0 < offset_s - self._offset_s < JUMP_S:
            self._offset_s = offset_s
        self._seen_at = arrived_at
        return stamp_s + self._offset_s


def photo_time(path: Path) -> float:
    """When the photo in a file was taken: EXIF's word, else when the file was written."""
    return _exif_time(path) or _written(path)


def _written(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return time.time()


def _exif_time(path: Path) -> float | None:
    from PIL import Image

    from shared.preprocess.photo import FORMATS

    try:
        with Image.open(path, formats=FORMATS) as image:
            fields = image.getexif().get_ifd(_EXIF_IFD)
    except Exception:  # noqa: BLE001 - what is wrong with a photo is said when it is read
        return None
    text, offset = fields.get(_DATE_TIME_ORIGINAL), fields.get(_OFFSET_TIME_ORIGINAL)
    fraction = str(fields.get(_SUBSECONDS_ORIGINAL, "")).strip("\0 ")
    try:
        taken = datetime.strptime(str(text).strip("\0 "), "%Y:%m:%d %H:%M:%S")
        if offset:
            zone = datetime.strptime(str(offset).strip("\0 "), "%z").tzinfo
            taken = taken.replace(tzinfo=zone)
        seconds = taken.timestamp()  # without a zone it is this machine's
    except (ValueError, OverflowError, OSError):
        return None
    return seconds + (float(f"0.{fraction}") if fraction.isdigit() else 0.0)
