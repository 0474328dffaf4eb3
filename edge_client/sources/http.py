"""Motion JPEG over HTTP, as IP cameras, OctoPrint, mjpg-streamer and ESP32 cameras give it."""

from __future__ import annotations

import base64
import http.client
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from urllib.parse import unquote, urlsplit, urlunsplit

from edge_client.sources.base import Capture
from edge_client.sources.motion_jpeg import READ_BYTES, JpegSplitter, jpeg_capture, stamped
from shared.errors import SourceError

MIXED = "multipart/x-mixed-replace"


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
