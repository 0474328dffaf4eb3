"""JPEGs one after another: what ``ffmpeg -f image2pipe`` writes, and Motion JPEG over HTTP.

Between them there may be anything, such as the headers of multipart/x-mixed-replace. No length is
believed: a JPEG is walked through by its markers (ITU-T T.81, B.1.1).
"""

from __future__ import annotations

import functools
import re
import sys
import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

from edge_client.sources.base import Capture
from edge_client.sources.times import CLOCK_TRUST_S
from edge_client.sources.waiting import read_some
from shared.errors import SourceError
from shared.preprocess import load_photo

MAX_JPEG_BYTES = 32 * 2**20
MAX_HEADER_BYTES = 4096
READ_BYTES = 2**16

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_RESTARTS = range(0xD0, 0xD8)
_TIME = re.compile(rb"^X-Timestamp:\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*$", re.I | re.M)


class JpegSplitter:
    """Takes bytes as they come, gives JPEGs, each with what stood before it."""

    def __init__(self, max_bytes: int = MAX_JPEG_BYTES) -> None:
        """max_bytes: of a JPEG; a longer one is passed over."""
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._header = b""
        self._at = 0  # of the next byte to look at; 0: outside a JPEG
        self._in_scan = False
        self.damaged = 0
        """JPEGs that ended before their end, or were too long."""

    def feed(self, data: bytes) -> Iterator[tuple[bytes, bytes]]:
        """(what stood before it, its end at most; the JPEG) for every one that is complete now."""
        self._buffer += data
        while True:
            if self._at == 0 and not self._enter():
                return
            end = self._walk()
            if end is None:
                if len(self._buffer) <= self._max_bytes:
                    return
                self._damage(len(self._buffer))
            elif end > 0:
                yield self._header, bytes(self._buffer[:end])
                del self._buffer[:end]
                self._at = 0
                self._header = b""

    def finish(self) -> None:
        """There will be no more bytes: a JPEG that has begun is damaged."""
        self.damaged += self._at > 0

    def _enter(self) -> bool:
        """Find where a JPEG begins; what stands before it is its header."""
        start = self._buffer.find(b"\xff\xd8\xff")
        keep = 2 if start < 0 else 0
        before = len(self._buffer) - keep if start < 0 else start
        if before > 0:
            self._header = (self._header + self._buffer[:before])[-MAX_HEADER_BYTES:]
            del self._buffer[:before]
        if start < 0:
            return False
        self._at = 2
        self._in_scan = False
        return True

    def _walk(self) -> int | None:
        """The end of the JPEG, None when more bytes are needed, 0 when it was damaged."""
        data = self._buffer
        while True:
            if self._in_scan:
                found = data.find(b"\xff", self._at)
                self._at = len(data) if found < 0 else found
            if self._at + 2 > len(data):
                return None
            if data[self._at] != 0xFF:
                return self._damage(self._at)
            marker = data[self._at + 1]
            if marker == _EOI:
                return self._at + 2
            if marker == 0xFF:
                self._at += 1
            elif self._in_scan and (marker == 0 or marker in _RESTARTS):
                self._at += 2
            elif marker in (0, _SOI) or marker in _RESTARTS:
                return self._damage(self._at)
            else:
                if self._at + 4 > len(data):
                    return None
                length = int.from_bytes(data[self._at + 2 : self._at + 4], "big")
                if length < 2:
                    return self._damage(self._at)
                if self._at + 2 + length > len(data):
                    return None
                self._in_scan = marker == _SOS
                self._at += 2 + length

    def _damage(self, at: int) -> int:
        """Look for the next one from ``at`` on."""
        self.damaged += 1
        del self._buffer[:at]
        self._at = 0
        return 0


class StdinSource:
    """JPEGs on standard input, until it is closed."""

    name = "stdin"
    lasting = False

    def __init__(self, *, live: bool = False, stream: BinaryIO | None = None) -> None:
        """stream: instead of standard input; it needs a file number."""
        self.live = live
        self.stills = not live
        self.damaged = 0
        self._stream = stream

    def captures(self, stop: threading.Event) -> Iterator[Capture]:
        """Pictures as they come; each was taken when it came."""
        file = self._stream or sys.stdin.buffer
        splitter = JpegSplitter()
        count = 0
        while (data := read_some(file.fileno(), READ_BYTES, stop)) is not None:
            if not data:
                splitter.finish()
                self.damaged = splitter.damaged
                if count == 0 and not stop.is_set():
                    raise SourceError("unreadable", "there was no JPEG on standard input")
                return
            for _, jpeg in splitter.feed(data):
                count += 1
                yield jpeg_capture(f"stdin#{count}", time.time(), jpeg)
            self.damaged = splitter.damaged


def jpeg_capture(name: str, captured_at: float, jpeg: bytes) -> Capture:
    """A JPEG's picture."""
    return Capture(name, captured_at, functools.partial(load_photo, jpeg))


def stamped(header: bytes, arrived_at: float) -> float:
    """When a part of Motion JPEG was taken: by its ``X-Timestamp``, where that clock is set."""
    found = _TIME.findall(header)
    at = float(found[-1]) if found else arrived_at
    return at if abs(at - arrived_at) < CLOCK_TRUST_S else arrived_at
