"""JPEGs one after another: what ``ffmpeg -f image2pipe`` writes, and Motion JPEG over HTTP.

IP cameras, OctoPrint, mjpg-streamer and ESP32 cameras give the latter. Between the JPEGs there may
be anything, such as the headers of multipart/x-mixed-replace. No length is believed: a JPEG is
walked through by its markers (ITU-T T.81, B.1.1).
"""

from __future__ import annotations

import base64
import functools
import http.client
import os
import re
import select
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from typing import BinaryIO
from urllib.parse import unquote, urlsplit, urlunsplit

from edge_client.sources.base import CLOCK_TRUST_S, Capture
from shared.errors import SourceError
from shared.preprocess import load_photo

MAX_JPEG_BYTES = 32 * 2**20
MAX_HEADER_BYTES = 4096
READ_BYTES = 2**16
MIXED = "multipart/x-mixed-replace"
LOOK_S = 0.2
"""How long nobody looks whether a read is to stop."""

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_RESTARTS = range(0xD0, 0xD8)
_TIME = re.compile(rb"^X-Timestamp:\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*$", re.I | re.M)


class JpegSplitter:
    """Splits a byte stream into JPEGs, each with the bytes that stood before it."""

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
    """A capture of a JPEG in memory, decoded when it is loaded."""
    return Capture(name, captured_at, functools.partial(load_photo, jpeg))


def stamped(header: bytes, arrived_at: float) -> float:
    """When a part of Motion JPEG was taken: by its ``X-Timestamp``, where that clock is set."""
    found = _TIME.findall(header)
    at = float(found[-1]) if found else arrived_at
    return at if abs(at - arrived_at) < CLOCK_TRUST_S else arrived_at


class MotionJpegSource:
    """Parts of ``multipart/x-mixed-replace``, for as long as the server sends them."""

    live = True
    stills = False
    lasting = True

    def __init__(self, url: str, *, timeout_s: float = 10.0) -> None:
        """url: http or https; a user and password in it are for Basic authentication.
        timeout_s: without a byte."""
        self.name = without_password(url)
        self.damaged = 0
        self._url = url
        self._timeout_s = timeout_s
        self._count = 0

    def captures(self, stop: threading.Event) -> Iterator[Capture]:
        """Pictures as they come."""
        with closing(self._open()) as response:
            kind = response.headers.get_content_type()
            if kind != MIXED:
                raise SourceError(
                    "bad_source", f"{self.name} sends {kind}, which is no Motion JPEG ({MIXED})"
                )
            splitter = JpegSplitter()
            damaged = self.damaged
            while not stop.is_set():
                try:
                    data = response.read1(READ_BYTES)
                except (OSError, http.client.HTTPException) as error:
                    raise _away(self.name, error) from None
                arrived_at = time.time()
                for header, jpeg in splitter.feed(data):
                    self._count += 1
                    at = stamped(header, arrived_at)
                    yield jpeg_capture(f"{self.name}#{self._count}", at, jpeg)
                if not data:
                    splitter.finish()
                self.damaged = damaged + splitter.damaged
                if not data:
                    raise SourceError("source_away", f"{self.name} has ended the stream")

    def _open(self) -> http.client.HTTPResponse:
        parts = urlsplit(self._url)
        request = urllib.request.Request(bare(self._url), headers={"User-Agent": "featherwire"})
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            code = base64.b64encode(pair.encode()).decode()
            request.add_header("Authorization", f"Basic {code}")
        try:
            response: http.client.HTTPResponse = urllib.request.urlopen(
                request, timeout=self._timeout_s
            )
        except urllib.error.HTTPError as error:
            with error:
                reason = "forbidden" if error.code in (401, 403) else "source_away"
                raise SourceError(reason, f"{self.name} answers {error.code}") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _away(self.name, error) from None
        return response


def bare(url: str) -> str:
    """The URL without user and password."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def without_password(url: str) -> str:
    """The URL as it may be shown: without user, password and query."""
    return urlunsplit(urlsplit(bare(url))._replace(query="", fragment=""))


def _away(name: str, error: Exception) -> SourceError:
    why = getattr(error, "reason", None) or error
    return SourceError("source_away", f"{name}: {why}")


def read_some(number: int, most: int, stop: threading.Event) -> bytes | None:
    """Bytes of a file by its number, at least one; empty at its end; None once ``stop`` is set."""
    poll = select.poll()
    poll.register(number, select.POLLIN)
    while not stop.is_set():
        if poll.poll(LOOK_S * 1000):
            return os.read(number, most)
    return None
