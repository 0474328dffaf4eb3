"""Video by PyAV: files, RTSP, other streams over HTTP, and V4L2 cameras."""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from edge_client.sources.base import Capture, Pixels, Waiting, time_of
from edge_client.sources.clock import FileClock, LiveClock
from shared.addresses import redacted
from shared.errors import PhotoError, SourceError
from shared.installation import require
from shared.limits import DEFAULT_LIMITS, Limits
from shared.preprocess.geometry import check_sides

if TYPE_CHECKING:
    import av.container
    import av.video

_MICROSECONDS = 1e6
FIRST_TIMES = 3
"""How many times as long as between pictures the first one may take: it begins at a key frame."""
_TEXT = frozenset({"tty", "bin", "idf", "adf", "xbin"})
"""FFmpeg draws what is in a text file."""


class VideoSource:
    """Pictures of a video, decoded one after the other, turned to RGB when they are wanted."""

    stills = False
    polled = False

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
        secrets: Sequence[str] = (),
    ) -> None:
        """url: as FFmpeg takes it. name: the same without a password. form: FFmpeg's name of the
        input format, such as ``v4l2``. options: FFmpeg's, for the input. timeout_s: without a
        packet, or without a picture. realtime: give a file's pictures at the times at which they
        were taken. secrets: words of the url that are in no message. Raises
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
        self._secrets = tuple(secrets)
        self._count = 0
        self._rgb = RgbPictures()

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
                    yield from self._of_file(container, stream, frames, stop)
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

        began_s = time.monotonic()
        try:
            return av.open(
                self._url,
                format=self._form,
                # A picture that claims more is refused by FFmpeg before it has memory for it, and
                # a file that names others, as a playlist does, gets none of them.
                options={
                    "max_pixels": str(self._limits.max_side**2),
                    # And a stream whose codec is announced anew stays the one that we look at.
                    **(
                        {"merge_pmt_versions": "1"}
                        if self.lasting
                        else {"protocol_whitelist": "file"}
                    ),
                    **self._options,
                },
                timeout=(self._timeout_s, self._timeout_s) if self.lasting else None,
            )
        except (av.FFmpegError, OSError, ValueError) as error:
            if self.lasting and time.monotonic() - began_s >= self._timeout_s:
                why = f"{self.name}: no answer within {self._timeout_s:g} s"
                raise SourceError("source_away", why) from None
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
        if isinstance(error, av.error.ExitError):  # what our own time limit looks like
            why = f"nothing came for {self._timeout_s:g} s"
        why = redacted(why.replace(self._url, self.name), *self._secrets)
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
        if isinstance(error, av.error.InvalidDataError):
            text = f"{self.name} is no video, or damaged from the start ({why})"
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
        """Pictures; those are counted that cannot be decoded, or only in part, or that a file
        announces and does not have."""
        import av

        # All streams: while only sound comes, somebody has to notice that there is no picture.
        packets = container.demux()
        waits = Waiting(self._timeout_s, first=FIRST_TIMES)
        last: int | None = None
        while not stop.is_set():
            if self.lasting and waits.too_long():
                raise self._without_picture(stream, waits.since_s)
            try:
                packet = next(packets)
            except StopIteration:
                self.damaged += _missing(stream, last)
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
            if packet.stream_index != stream.index:
                continue
            try:
                frames = cast("list[av.VideoFrame]", packet.decode())
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
                self.damaged += frame.is_corrupt
                last = frame.pts
                waits.over()
                yield frame

    def _without_picture(self, stream: av.video.stream.VideoStream, since_s: float) -> SourceError:
        codec = stream.codec_context.name
        return SourceError(
            "source_away",
            f"{self.name} sends, but for {since_s:.0f} s no picture that can be decoded as {codec}",
        )

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
        stream: av.video.stream.VideoStream,
        frames: Iterator[av.VideoFrame],
        stop: threading.Event,
    ) -> Iterator[Capture]:
        from av.format import Flags

        # Our clock may be set while the file runs: it is not what the pauses are measured with.
        began_s, began_at = time.monotonic(), time.time()
        base_at = began_at if self._realtime or self._loop else self._created(container)
        # Nobody waits through the night for the next picture of a file that is played.
        gaps = not self._realtime and not container.format.flags & cast(int, Flags.ts_discont.value)
        clock = FileClock(_announced_step_s(stream), gaps=gaps)
        for frame in frames:
            since_s = clock.at(_stamp(frame))
            captured_at = base_at + since_s
            if self._realtime:
                stop.wait(max(0.0, began_s + since_s - time.monotonic()))
                if stop.is_set():
                    return
                captured_at = time.time() - (time.monotonic() - began_s - since_s)
            yield self._capture(frame, captured_at)

    def _created(self, container: av.container.InputContainer) -> float:
        """When the video was recorded; cameras whose clock was not set write 1970, or 1904."""
        recorded: float | None = None
        text = container.metadata.get("creation_time", "")
        with suppress(ValueError, OverflowError):
            recorded = datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()
        return time_of(Path(self._url), recorded)

    def _capture(self, frame: av.VideoFrame, captured_at: float) -> Capture:
        name = f"{self.name}#{self._count}"
        return Capture(name, captured_at, functools.partial(self._rgb, frame))


MISSING = 0.1
"""The share of a video that has to be missing at its end: durations are announced roughly."""


def _missing(stream: av.video.stream.VideoStream, last: int | None) -> int:
    """How many pictures a file announces behind the last one that there was, by their times: some
    announce pictures that are not there because nothing moved."""
    if last is None or not stream.duration or not stream.frames:
        return 0
    share = 1 - (last - (stream.start_time or 0)) / stream.duration
    return round(share * stream.frames) if share > MISSING else 0


def _announced_step_s(stream: av.video.stream.VideoStream) -> float | None:
    """Seconds between pictures, as a video says it; None where it does not."""
    # The base rate may be that of fields, or the ticks of an encoder's clock: the guess knows.
    rate = stream.guessed_rate
    return float(1 / rate) if rate else None


def _stamp(frame: av.VideoFrame) -> float | None:
    return None if frame.pts is None else frame.time


class RgbPictures:
    """Turns the frames of a video to pictures. Nothing of a frame stays behind.

    One converter serves all frames: FFmpeg's begins a thread a processor, which it keeps.
    """

    def __init__(self) -> None:
        from av.video.reformatter import VideoReformatter

        self._reformatter = VideoReformatter()
        self._lock = threading.Lock()

    def __call__(self, frame: av.VideoFrame) -> Pixels:
        """uint8 HxWx3, upright."""
        # `frame.side_data` would be the same, but kept by the frame, and the frame by that: such a
        # ring, with the decoder's memory, stays until Python looks for rings.
        from av.sidedata.sidedata import SideDataContainer

        with self._lock:
            rgb = self._reformatter.reformat(frame, format="rgb24", threads=1)
        pixels = cast(Pixels, rgb.to_ndarray())
        side_data = SideDataContainer(frame)  # type: ignore[call-arg]  # missing in its stub
        matrix = side_data.get("DISPLAYMATRIX")
        return (
            pixels
            if matrix is None
            else upright(pixels, np.frombuffer(cast("memoryview[int]", matrix), np.int32))
        )


def upright(pixels: Pixels, matrix: NDArray[np.int32]) -> Pixels:
    """Pixels (uint8 HxWx3) as a display matrix shows them, to the nearest quarter turn.

    matrix: nine numbers (a b u, c d v, x y w) that take column p and row q to column a p + c q and
    row b p + d q (ISO/IEC 14496-12, 6.2.2), of which the signs say all but the scale.
    """
    a, b, c, d = (int(matrix[at]) for at in (0, 1, 3, 4)) if matrix.size == 9 else (1, 0, 0, 1)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        across, down = a, d
    else:
        pixels = pixels.transpose(1, 0, 2)
        across, down = c, b
    pixels = pixels[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]
    return np.ascontiguousarray(pixels)
