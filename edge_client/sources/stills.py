"""Pictures in files: those of a folder as they appear, and a list of them."""

from __future__ import annotations

import functools
import logging
import os
import re
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path

from edge_client.sources.base import Capture, Pixels, time_of
from shared.errors import SourceError
from shared.names import printable, text_of
from shared.preprocess import load_photo

FEATURES = ".fwf"
SUFFIXES = frozenset(
    {
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".apng", ".webp", ".avif", ".avifs"),
        *(".tif", ".tiff", ".gif", ".bmp", ".dib", ".pbm", ".pgm", ".ppm", ".pnm", FEATURES),
    }
)
"""Of pictures in a folder, in lower case: what Pillow gives the formats that we read."""
UNFINISHED = frozenset(
    {".tmp", ".part", ".partial", ".crdownload", ".filepart", ".download", ".swp"}
)
"""Suffixes of what is still being written, by programs that rename it then."""
MOST_SUFFIXES = 20
"""Other ones of a folder are told of so many."""
POLL_S = 0.5
QUIET_S = 1.0
"""A file that was written to less long ago than this is looked at again first."""

EMPTY_S = 60.0
"""A file without a byte is somebody's who has just begun to write it; after so long, a failure."""

_EXIF_IFD = 0x8769
_TIME_TAGS = (0x9003, 0x9011, 0x9291)
"""EXIF 2.32: DateTimeOriginal, OffsetTimeOriginal, SubSecTimeOriginal."""


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
        return text_of(self._paths[0]) if one else f"{len(self._paths)} files"

    def files(self) -> list[Path]:
        """Those that are there."""
        return [path for path in self._paths if path.exists()]

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
    left alone: other suffixes (of each kind it is said once), names that begin with a dot. A file
    counts once it no longer grows, and again when it is written anew.
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
        self._left_alone: set[str] = set()

    @property
    def name(self) -> str:
        """For people."""
        return text_of(self._folder)

    def files(self) -> list[Path]:
        """The pictures that are there now, in no order; none where the folder cannot be read."""
        try:
            return [self._folder / name for name in os.listdir(self._folder) if is_picture(name)]
        except OSError:
            return []

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
                    if not is_picture(entry.name):
                        self._leave_alone(entry)
                    elif (facts := _facts(entry)) is not None:
                        there[entry.name] = facts
        except FileNotFoundError:
            raise SourceError("source_away", f"there is no folder {self.name}") from None
        except OSError as error:
            why = error.strerror or str(error)
            raise SourceError("source_away", f"cannot read {self.name}: {why}") from None
        self._taken = {name: facts for name, facts in self._taken.items() if name in there}
        new = {name: facts for name, facts in there.items() if self._taken.get(name) != facts}
        quiet_before_ns = time.time_ns() - int(QUIET_S * 1e9)
        empty_before_ns = time.time_ns() - int(EMPTY_S * 1e9)
        whole = [
            name
            for name, facts in new.items()
            if (facts[1] > 0 and (facts[0] < quiet_before_ns or self._growing.get(name) == facts))
            or facts[0] < empty_before_ns
        ]
        self._growing = {name: facts for name, facts in new.items() if name not in whole}
        whole.sort(key=lambda name: (new[name][0], name))
        self._taken |= {name: new[name] for name in whole}
        return [self._folder / name for name in whole]

    def _leave_alone(self, entry: os.DirEntry[str]) -> None:
        """Say once of each suffix that its files are not taken."""
        suffix = os.path.splitext(entry.name)[1].lower()
        hidden = entry.name.startswith(".") or suffix in UNFINISHED
        if hidden or suffix in self._left_alone or _facts(entry) is None:
            return
        if len(self._left_alone) < MOST_SUFFIXES:
            self._left_alone.add(suffix)
            kind = f"files that end in {suffix}" if suffix else "files without a suffix"
            logging.getLogger(__name__).warning(
                "%s in %s are left alone, such as %s: they are no pictures by their names",
                *(printable(text_of(text)) for text in (kind, self.name, entry.name)),
            )


def _facts(entry: os.DirEntry[str]) -> tuple[int, int] | None:
    """When a file was written, in ns, and its bytes; None for what is none, or has just gone."""
    try:
        if not entry.is_file():
            return None
        facts = entry.stat()
    except OSError:
        return None
    return facts.st_mtime_ns, facts.st_size


def is_picture(name: str) -> bool:
    """Whether a file of this name may hold a picture."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in SUFFIXES


def capture_of(path: Path, captured_at: float | None = None) -> Capture:
    """A capture of a file, with the time of its EXIF or its date unless ``captured_at`` is
    given."""
    taken_at = photo_time(path) if captured_at is None else captured_at
    return Capture(text_of(path), taken_at, functools.partial(_load, path), path)


def _load(path: Path) -> Pixels | Path:
    return path if path.suffix.lower() == FEATURES else load_photo(path)


def photo_time(path: Path) -> float:
    """When the photo in a file was taken, in seconds since 1970: see ``time_of``."""
    return time_of(path, _exif_time(path))


def _exif_time(path: Path) -> float | None:
    from PIL import Image

    from shared.preprocess.photo import FORMATS

    try:
        with Image.open(path, formats=FORMATS) as image:
            fields = image.getexif().get_ifd(_EXIF_IFD)
        return _seconds(*(_text(fields.get(tag)) for tag in _TIME_TAGS))
    except Exception:  # noqa: BLE001 - what is wrong with a photo is reported when it is read
        return None


def _text(value: object) -> str:
    text = value.decode("ascii", "replace") if isinstance(value, bytes) else str(value or "")
    return text.strip("\0 ")


_DATE = re.compile(r"(\d{4})" + r"\D{1,2}(\d{1,2})" * 4 + r"(?:\D{1,2}(\d{1,2}))?")
MOST_OFFSET_MINUTES = 14 * 60
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)|Z")


def _zone(offset: str) -> timezone | None:
    """EXIF's zone; None for none: cameras write blanks, and what no place has."""
    found = _OFFSET.fullmatch(offset)
    if found is None:
        return None
    minutes = 60 * int(found[2] or 0) + int(found[3] or 0)
    if minutes > MOST_OFFSET_MINUTES:
        return None
    return timezone(timedelta(minutes=-minutes if found[1] == "-" else minutes))


def _seconds(date: str, offset: str, fraction: str) -> float | None:
    """EXIF's date, zone and fraction as seconds since 1970; without a zone it is this machine's."""
    found = _DATE.match(date)
    if found is None:
        return None
    try:
        *minute, second = (int(part or 0) for part in found.groups())
        taken = datetime(*minute, min(second, 59), tzinfo=_zone(offset))  # type: ignore[arg-type,misc]
        seconds = taken.timestamp()
    except (ValueError, OverflowError, OSError):
        return None
    return seconds + (float(f"0.{fraction}") if fraction.isascii() and fraction.isdigit() else 0.0)
