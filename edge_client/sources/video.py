"""Video by PyAV: files, RTSP, other streams over HTTP, and V4L2 cameras."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edge_client.sources.base import CLOCK_TRUST_S, Capture, Pixels
from shared.errors import PhotoError, SourceError
from shared.installation import require
from shared.limits import DEFAULT_LIMITS, Limits
from shared.preprocess.geometry import check_sides

if TYPE_CHECKING:
    import av.container
    import av.video

_MICROSECONDS = 1e6
_TEXT = frozenset({"tty", "bin", "idf", "adf", "xbin"})
"""FFmpeg draws what is in a text file."""
JUMP_S = 5.0
"""A stream's time stamps that jump by more than this begin anew."""
FORGET = 0.001
"""Seconds that the least delay may grow in a second: clocks drift."""


class VideoSource:
    """Pictures of a video, decoded one after the other, turned to RGB when they are wanted."""

    stills = False

    def __init__(
        self,
        url: str,
        name: str,
        *,
        live: bool,
        lasting: bool,
        form: str | None = None,
        options: Mapping[str, str] | None = None,
        timeout_s: float = 10.0,
        loop: bool = False,
        realtime: bool = False,
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        """url: as FFmpeg takes it. name: the same without a password. form: FFmpeg's name of the
        input format, such as ``v4l2``. options: FFmpeg's, for the input. timeout_s: without a
        packet. realtime: give a file's pictures at the times at which they were taken. Raises
        ``SourceError("missing_extra")``."""
        require("av", "stream", f"the source {name}", SourceError)
        self.name = name
        self.live = live
        self.lasting = lasting
        self.damaged = 0
        self._url = url
        self._form = form
        self._options = dict(options or {})
        self._timeout_s = timeout_s
        self._loop = loop
        self._realtime = realtime
        self._limits = limits
        self._count = 0

    def captures(self, stop: threading.Event) -> Iterator[Capture]:
        """Pictures as they are decoded."""
        while not stop.is_set():
            with closing(self._open()) as container:
                stream = self._stream(container)
                before = self._count
                frames = self._decode(container, stream, stop)
                if self.lasting:
                    yield from self._as_they_come(container, frames)
                else:
                    yield from self._of_file(container, frames, stop)
            if stop.is_set():
                return
            if self._count == before:
                raise SourceError("unreadable", f"no picture of {self.name} can be decoded")
            if self.lasting:
                raise SourceError("source_away", f"{self.name} has ended")
            if not self._loop:
                return

    # -- opening ---------------------------------------------------------------------------------

    def _open(self) -> av.container.InputContainer:
        import av

        try:
            return av.open(
                self._url,
                format=self._form,
                # A picture that claims more is refused by FFmpeg before it has memory for it, and
                # a file that names others, as a playlist does, gets none of them.
                options={
                    "max_pixels": str(self._limits.max_side**2),
                    **({} if self.lasting else {"protocol_whitelist": "file"}),
                    **self._options,
                },
                timeout=(self._timeout_s, self._timeout_s) if self.lasting else None,
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            raise self._error(error) from None

    def _stream(self, container: av.container.InputContainer) -> av.video.stream.VideoStream:
        if container.format.name in _TEXT:
            raise SourceError("unreadable", f"{self.name} is text, and no video")
        if not container.streams.video:
            raise SourceError("no_video", f"there is no video in {self.name}")
        stream = container.streams.video[0]
        if stream.width and stream.height:
            try:
                check_sides(stream.width, stream.height, self._limits)
            except PhotoError as error:
                raise SourceError(error.reason, f"{self.name}: {error.message}") from None
        return stream

    def _error(self, error: Exception) -> SourceError:
        import av

        why = getattr(error, "strerror", None) or str(error)
        text = f"{self.name}: {why}"
        refused = (
            av.error.HTTPUnauthorizedError,
            av.error.HTTPForbiddenError,
            PermissionError,
        )
        if isinstance(error, refused):
            return SourceError("forbidden", text)
        if self.lasting:
            return SourceError("source_away", text)
        return SourceError(
            "not_found" if isinstance(error, FileNotFoundError) else "unreadable", text
        )

    # -- decoding --------------------------------------------------------------------------------

    def _decode(
        self,
        container: av.container.InputContainer,
        stream: av.video.stream.VideoStream,
        stop: threading.Event,
    ) -> Iterator[av.VideoFrame]:
        """Pictures; packets that cannot be decoded are counted."""
        import av

        packets = container.demux(stream)
        while not stop.is_set():
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.error.InvalidDataError:
                self.damaged += 1
                if not self.lasting:
                    return  # a file does not get better
                continue
            except (av.FFmpegError, OSError) as error:
                if self.lasting:
                    raise self._error(error) from None
                self.damaged += 1
                return
            try:
                frames = packet.decode()
            except (av.FFmpegError, OSError):
                self.damaged += 1
                continue
            for frame in frames:
                try:
                    check_sides(frame.width, frame.height, self._limits)
                except PhotoError:  # the first ones were of another size
                    self.damaged += 1
                    continue
                self._count += 1
                yield frame

    # -- times -----------------------------------------------------------------------------------

    def _as_they_come(
        self, container: av.container.InputContainer, frames: Iterator[av.VideoFrame]
    ) -> Iterator[Capture]:
        clock = LiveClock()
        for frame in frames:
            arrived_at = time.time()
            zero_us = container.start_time_realtime  # what RTP's sender reports say
            zero_at = zero_us / _MICROSECONDS if zero_us and zero_us > 0 else None
            yield self._capture(frame, clock.at(_stamp(frame), arrived_at, zero_at))

    def _of_file(
        self,
        container: av.container.InputContainer,
        frames: Iterator[av.VideoFrame],
        stop: threading.Event,
    ) -> Iterator[Capture]:
        began_at = time.time()
        base_at = began_at if self._realtime or self._loop else self._created(container)
        first_s: float | None = None
        last_s = 0.0
        for frame in frames:
            stamp_s = last_s if frame.pts is None else frame.time
            last_s = stamp_s
            first_s = stamp_s if first_s is None else first_s
            since_s = max(0.0, stamp_s - first_s)
            if self._realtime:
                stop.wait(max(0.0, began_at + since_s - time.time()))
                if stop.is_set():
                    return
            yield self._capture(frame, base_at + since_s)

    def _created(self, container: av.container.InputContainer) -> float:
        """When the video was recorded, by its own fields, else when the file was written."""
        text = container.metadata.get("creation_time", "")
        try:
            return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        except (ValueError, OverflowError):
            pass
        try:
            return Path(self._url).stat().st_mtime
        except OSError:
            return time.time()

    def _capture(self, frame: av.VideoFrame, captured_at: float) -> Capture:
        name = f"{self.name}#{self._count}"
        return Capture(name, captured_at, functools.partial(_rgb, frame))


def _stamp(frame: av.VideoFrame) -> float | None:
    return None if frame.pts is None else frame.time


def _rgb(frame: av.VideoFrame) -> Pixels:
    """uint8 HxWx3, upright."""
    pixels = frame.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, frame.rotation // 90))


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
