"""Pictures in files: those of a folder as they appear, and a list of them."""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from edge_client.sources.base import Capture, Pixels
from shared.errors import SourceError
from shared.preprocess import load_photo

FEATURES = ".fwf"
SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".gif", ".bmp", ".ppm", FEATURES}
)
POLL_S = 0.5
QUIET_S = 1.0
"""A file that was written to less long ago than this is looked at again first."""

_EXIF_IFD = 0x8769
_DATE_TIME_ORIGINAL = 0x9003
_OFFSET_TIME_ORIGINAL = 0x9011
_SUBSECONDS_ORIGINAL = 0x9291


class FilesSource:
    """Files in the order given, once, or for ever with ``loop``."""

    live = False
    stills = True
    polled = False
    lasting = False
    damaged = 0

    def __init__(self, paths: Sequence[Path], *, loop: bool = False) -> None:
        self._paths = tuple(paths)
        self._loop = loop

    @property
    def name(self) -> str:
        """For people."""
        one = len(self._paths) == 1
        return str(self._paths[0]) if one else f"{len(self._paths)} files"

    def captures(self, stop: threading.Event) -> Iterator[Capture]:
        """Each file; a loop's pictures are taken now, and not when the file was written."""
        again = False
        while not stop.is_set():
            for path in self._paths:
                if stop.is_set():
                    return
                yield capture_of(path, time.time() if again else None)
            if not self._loop:
                return
            again = True


class FolderSource:
    """The pictures of a folder, and those that come into it, the oldest first.

    The folder is read every half second, which works on every file system. What cannot be one is
    left alone: other suffixes, names that begin with a dot. A file counts once it no longer grows,
    and again when it is written anew.
    """

    live = False
    stills = True
    polled = False
    lasting = True
    damaged = 0

    def __init__(self, folder: Path, *, poll_s: float = POLL_S) -> None:
        self._folder = folder
        self._poll_s = poll_s
        # Of files that are still there, so that this does not grow: (time, bytes) when taken.
        self._taken: dict[str, tuple[int, int]] = {}
        self._growing: dict[str, tuple[int, int]] = {}

    @property
    def name(self) -> str:
        """For people."""
        return str(self._folder)

    def captures(self, stop: threading.Event) -> Iterator[Capture]:
        """Pictures as they appear."""
        while not stop.is_set():
            for path in self._ready():
                if stop.is_set():
                    return
                yield capture_of(path)
            stop.wait(self._poll_s)

    def _ready(self) -> list[Path]:
        there: dict[str, tuple[int, int]] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if is_picture(entry.name) and entry.is_file():
                        facts = entry.stat()
                        there[entry.name] = (facts.st_mtime_ns, facts.st_size)
        except FileNotFoundError:
            raise SourceError("source_away", f"there is no folder {self._folder}") from None
        except OSError as error:
            why = error.strerror or str(error)
            raise SourceError("source_away", f"cannot read {self._folder}: {why}") from None
        self._taken = {name: facts for name, facts in self._taken.items() if name in there}
        new = {name: facts for name, facts in there.items() if self._taken.get(name) != facts}
        quiet_before_ns = time.time_ns() - int(QUIET_S * 1e9)
        whole = [
            name
            for name, facts in new.items()
            if facts[1] > 0 and (facts[0] < quiet_before_ns or self._growing.get(name) == facts)
        ]
        self._growing = {name: facts for name, facts in new.items() if name not in whole}
        whole.sort(key=lambda name: (new[name][0], name))
        self._taken |= {name: new[name] for name in whole}
        return [self._folder / name for name in whole]


def is_picture(name: str) -> bool:
    """Whether a file of this name may hold a picture."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def capture_of(path: Path, captured_at: float | None = None) -> Capture:
    """A capture of a file, with the time of its EXIF or its date unless ``captured_at`` is
    given."""
    taken_at = photo_time(path) if captured_at is None else captured_at
    return Capture(str(path), taken_at, functools.partial(_load, path), path)


def _load(path: Path) -> Pixels | Path:
    return path if path.suffix.lower() == FEATURES else load_photo(path)


def photo_time(path: Path) -> float:
    """When the photo in a file was taken: by its EXIF, else when the file was written."""
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
    except Exception:  # noqa: BLE001 - what is wrong with a photo is reported when it is read
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
