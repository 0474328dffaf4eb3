"""JPEGs one after another: what ``ffmpeg -f image2pipe`` writes, Motion JPEG over HTTP, snapshots.

IP cameras, OctoPrint, mjpg-streamer and ESP32 cameras give the latter. Between the JPEGs there may
be anything, such as the headers of multipart/x-mixed-replace. No length is believed: a JPEG is
walked through by its markers (ITU-T T.81, B.1.1).
"""

from __future__ import annotations

import functools
import http.client
import os
import re
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from typing import BinaryIO

from edge_client.sources.base import CLOCK_TRUST_S, Capture, Waiting
from edge_client.sources.web.camera import READ_BYTES, HttpCamera, unpacked
from shared.addresses import Address
from shared.errors import SourceError
from shared.preprocess import load_photo
from shared.preprocess.jpeg import with_end

MAX_JPEG_BYTES = 32 * 2**20
MAX_HEADER_BYTES = 4096
MAX_PREFACE_BYTES = 2**20
"""So much may come before the first JPEG of what does not call itself one."""
LOOK_S = 0.2
"""How long nobody looks whether a read is to stop."""
WAIT_TIMES = 3
"""How many times as long as without a byte a stream may be without a picture: lines are slow."""

_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_RESTARTS = range(0xD0, 0xD8)
_TIME = re.compile(rb"^X-Timestamp:\s*([0-9]{1,12}(?:\.[0-9]{1,9})?)\s*$", re.I | re.M)
# Headers of the next part, at the end of a picture that has no end.
_NEXT_PART = re.compile(rb"\r?\n?--[\t\r\n -~]*\Z")
# What may be a picture, or many, whatever it is called; other kinds are what they say.
_OTHER_KINDS = re.compile(
    r"(text|audio|message|font|model)/(?!plain)|application/(json|xml|.*\+)|video/"
)
_JPEG_KINDS = re.compile(r"[a-z]+/.*jpe?g", re.I)


class JpegSplitter:
    """Splits a byte stream into JPEGs, each with the bytes that stood before it."""

    def __init__(self, max_bytes: int = MAX_JPEG_BYTES) -> None:
        """max_bytes: of a JPEG; a longer one is passed over."""
        self._max_bytes = max_bytes
        self._buffer = bytearray()
        self._header = b""
        self._at = 0  # of the next byte to look at; 0: outside a JPEG
        self._in_scan = False
        self._unended: tuple[bytes, bytes] | None = None
        self.damaged = 0
        """JPEGs that ended before their end, or were too long."""
        self.ended = True
        """Whether the last JPEG had its end marker, so that it came when its last byte did."""

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
                self.ended = True
                yield self._header, bytes(self._buffer[:end])
                del self._buffer[:end]
                self._at = 0
                self._header = b""
            elif self._unended is not None:
                self.ended = False
                yield self._unended
                self._unended = None

    def finish(self) -> list[tuple[bytes, bytes]]:
        """There will be no more bytes. A JPEG that has begun, and lacks its end marker alone, comes
        now; otherwise it is damaged."""
        if self._at == 0:
            return []
        self._damage(len(self._buffer))
        last, self._unended = self._unended, None
        self.ended = False
        return [] if last is None else [last]

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
        """Look for the next one from ``at`` on. What ends there may be a picture all the same."""
        whole = None
        if self._in_scan and at <= self._max_bytes:
            piece = bytes(self._buffer[:at])
            part = _NEXT_PART.search(piece, max(0, at - MAX_HEADER_BYTES))
            end = at if part is None else part.start()
            whole = with_end(piece[:end], exactly=False)
            if whole is not None:
                self._unended = self._header, whole
                self._header = piece[end:]
        self.damaged += whole is None
        del self._buffer[:at]
        self._at = 0
        return 0


class StdinSource:
    """JPEGs on standard input, until it is closed."""

    name = "stdin"
    lasting = False
    polled = False

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
                for _, jpeg in splitter.finish():
                    count += 1
                    yield jpeg_capture(f"stdin#{count}", time.time(), jpeg)
                self.damaged = splitter.damaged
                if count == 0 and not stop.is_set():
                    raise SourceError("unreadable", "there was no JPEG on standard input")
                return
            for _, jpeg in splitter.feed(data):
                count += 1
                yield jpeg_capture(f"stdin#{count}", time.time(), jpeg)
            self.damaged = splitter.damaged


class MotionJpegSource:
    """JPEGs from a web server: parts of a multipart answer for as long as they come, or one picture
    an answer (a snapshot), asked for again and again."""

    live = True
    stills = False
    lasting = True

    def __init__(self, address: Address, *, timeout_s: float = 10.0) -> None:
        """address: http or https, with a user and password if the camera wants them. timeout_s:
        without a byte; three times as long without a picture."""
        self.name = address.shown
        self.polled = False
        self.damaged = 0
        self._camera = HttpCamera(address, timeout_s=timeout_s)
        self._timeout_s = timeout_s
        self._count = 0

    def captures(self, stop: threading.Event) -> Iterator[Capture]:
        """Pictures as they come."""
        while not stop.is_set():
            with closing(self._camera.open()) as answer:
                yield from self._of_answer(answer, stop)

    def _of_answer(
        self, answer: http.client.HTTPResponse, stop: threading.Event
    ) -> Iterator[Capture]:
        """The pictures of an answer. One that is alone in it is a snapshot, unless it is a part;
        any other answer should not have ended."""
        kind = answer.headers.get_content_type() if "Content-Type" in answer.headers else ""
        parts, named = kind.startswith("multipart/"), _JPEG_KINDS.fullmatch(kind) is not None
        if not named and _OTHER_KINDS.match(kind):
            raise self._no_jpeg(kind)
        splitter, waits = JpegSplitter(), Waiting(WAIT_TIMES * self._timeout_s)
        damaged, given, preface_bytes, came_at = self.damaged, 0, 0, time.time()
        held: Capture | None = None
        pieces = unpacked(answer)
        while not stop.is_set():
            data = self._next(pieces)
            before_at, came_at = came_at, time.time()
            if held is not None:
                self.polled = data is None
                yield held
                held = None
            for header, jpeg in splitter.finish() if data is None else splitter.feed(data):
                self._count += 1
                given += 1
                waits.over()
                # Without an end marker it was whole before the next one began.
                at = stamped(header, came_at if splitter.ended else before_at)
                capture = jpeg_capture(f"{self.name}#{self._count}", at, jpeg)
                if given == 1 and not parts:
                    held = capture  # until it is known whether it is alone
                    continue
                if held is not None:
                    self.polled = False
                    yield held
                    held = None
                yield capture
            self.damaged = damaged + splitter.damaged
            if data is None:
                self.polled = given == 1 and not parts
                if held is not None:
                    yield held
                if self.polled:
                    return
                raise self._ended(kind, given, splitter.damaged)
            preface_bytes += len(data)
            if given == 0 and not named and not parts and preface_bytes > MAX_PREFACE_BYTES:
                raise self._no_jpeg(kind)
            if waits.too_long():
                why = f"it sends, but for {waits.since_s:.0f} s no JPEG that is whole"
                raise self._camera.away(why)

    def _next(self, pieces: Iterator[bytes]) -> bytes | None:
        try:
            return next(pieces, None)
        except (OSError, http.client.HTTPException) as error:
            raise self._camera.away(error) from None

    def _ended(self, kind: str, given: int, damaged: int) -> SourceError:
        """What an answer that has ended says of the camera."""
        if given == 0 and not kind.startswith("multipart/") and not _JPEG_KINDS.fullmatch(kind):
            return self._no_jpeg(kind)
        when = ""
        if given == 0:
            when = " in the middle of the first picture" if damaged else " before a picture"
        return SourceError("source_away", f"{self.name} has ended the stream{when}")

    def _no_jpeg(self, kind: str) -> SourceError:
        what = f"{kind}, which" if kind else "what it does not name, and what"
        return SourceError(
            "bad_source",
            f"{self.name} sends {what} is no Motion JPEG (multipart/x-mixed-replace) and no JPEG",
        )


def jpeg_capture(name: str, captured_at: float, jpeg: bytes) -> Capture:
    """A capture of a JPEG in memory, decoded when it is loaded."""
    return Capture(name, captured_at, functools.partial(load_photo, jpeg))


def stamped(header: bytes, arrived_at: float) -> float:
    """When a part of Motion JPEG was taken: by its ``X-Timestamp``, where that clock is set."""
    found = _TIME.findall(header)
    at = float(found[-1]) if found else arrived_at
    return at if abs(at - arrived_at) < CLOCK_TRUST_S else arrived_at


def read_some(number: int, most: int, stop: threading.Event) -> bytes | None:
    """Bytes of a file by its number, at least one; empty at its end; None once ``stop`` is set."""
    if not hasattr(select, "poll"):  # Windows, where only sockets can be waited for
        return os.read(number, most)
    poll = select.poll()
    poll.register(number, select.POLLIN)
    while not stop.is_set():
        if poll.poll(LOOK_S * 1000):
            return os.read(number, most)
    return None
