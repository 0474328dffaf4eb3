"""What anyone could use instead: x264, x265 and SVT-AV1 through PyAV, with no frame of the future.

Each at a speed at which it is good, and at one for real time. One thread, constant quality (CRF), a
key frame every so many frames and wherever the encoder wants one. What counts as bytes are the
packets as an MP4 would hold them: no container, and neither the words in which encoders say how
they were called nor AV1's marks between frames.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import av
import numpy as np

from benchmarks.video.clips import Pixels
from training.evaluate.photos import EvaluationError

if TYPE_CHECKING:
    from av.video.codeccontext import VideoCodecContext

_X265 = "log-level=error:info=0:pools=none:frame-threads=1"
_SVT = "pred-struct=1:lp=1"
"""Low delay, one thread."""
_H264_SEI = 6
_TIME_BASE = Fraction(1, 90000)


@dataclass(frozen=True)
class Rival:
    """An encoder with its settings. crfs: from the finest to the coarsest. decoder: FFmpeg's.

    at_input: it codes frames that were reduced to the network's input size: the strong baseline,
    of who knows the network and needs no picture.
    """

    name: str
    encoder: str
    decoder: str
    options: tuple[tuple[str, str], ...]
    crfs: tuple[int, ...]
    at_input: bool = False

    @property
    def identity(self) -> str:
        """What its streams are kept under."""
        libraries = ".".join(map(str, av.library_versions["libavcodec"]))
        return f"{self.name}/{self.encoder}/{self.options}/pyav-{av.__version__}-{libraries}/2"

    def with_points(self, count: int) -> Rival:
        """With so many of its operating points, from the finest to the coarsest; 2 or more."""
        count = min(count, len(self.crfs))
        places = [round(k * (len(self.crfs) - 1) / (count - 1)) for k in range(count)]
        return replace(self, crfs=tuple(self.crfs[place] for place in places))


_H264_CRFS = (17, 21, 25, 29, 33, 37, 41, 45, 49)
_H265_CRFS = (16, 20, 24, 28, 32, 36, 40, 44, 48)
_AV1_CRFS = (14, 22, 30, 37, 43, 49, 54, 59, 63)
POINTS = len(_H264_CRFS)
"""Operating points of a rival, at most."""
_ZERO = ("tune", "zerolatency")
RIVALS = (
    Rival("x264", "libx264", "h264", (("preset", "medium"), _ZERO), _H264_CRFS),
    Rival("x264-fast", "libx264", "h264", (("preset", "veryfast"), _ZERO), _H264_CRFS),
    Rival(
        "x265", "libx265", "hevc",
        (("preset", "medium"), _ZERO, ("x265-params", _X265)), _H265_CRFS,
    ),
    Rival(
        "x265-fast", "libx265", "hevc",
        (("preset", "ultrafast"), _ZERO, ("x265-params", _X265)), _H265_CRFS,
    ),
    Rival(
        "svt-av1", "libsvtav1", "libdav1d",
        (("preset", "8"), ("svtav1-params", _SVT)), _AV1_CRFS,
    ),
    Rival(
        "x264-input", "libx264", "h264", (("preset", "medium"), _ZERO), _H264_CRFS[:-1], True
    ),
    Rival(
        "svt-av1-fast", "libsvtav1", "libdav1d",
        (("preset", "12"), ("svtav1-params", _SVT)), _AV1_CRFS,
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Stream:
    """A clip encoded. packets: one a frame, in order. keys: which of them are key frames.

    encode_s: CPU seconds of encoding alone, of all frames. size: width and height.
    """

    packets: tuple[bytes, ...]
    keys: tuple[bool, ...]
    encode_s: float
    size: tuple[int, int]

    @property
    def sizes(self) -> list[int]:
        """Bytes of every frame."""
        return [len(packet) for packet in self.packets]


def rivals_here(names: Sequence[str] | None = None) -> list[Rival]:
    """Those of the names (None: all) whose encoder and decoder this PyAV has.

    Raises EvaluationError ``no_rival`` for a name that is none.
    """
    known = {rival.name: rival for rival in RIVALS}
    unknown = set(names or ()) - set(known)
    if unknown:
        text = f"no rival {', '.join(sorted(unknown))}; known: {', '.join(known)}"
        raise EvaluationError("no_rival", text)
    chosen = RIVALS if names is None else [known[name] for name in names]
    return [one for one in chosen if _has(one.encoder, "w") and _has(one.decoder, "r")]


def encode(
    frames: Iterable[Pixels], rival: Rival, crfs: Sequence[int], *, fps: float, key_every: int
) -> dict[int, Stream]:
    """The frames at every CRF. Turning RGB to YUV takes no part in the times.

    Raises EvaluationError ``empty_clip`` without a frame, and ``rival_failed``.
    """
    encoders: dict[int, _Encoder] = {}
    for number, frame in enumerate(frames):
        if not encoders:
            size = (frame.shape[1], frame.shape[0])
            encoders = {crf: _Encoder(rival, crf, size, fps, key_every) for crf in crfs}
        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p")
        for encoder in encoders.values():
            encoder.add(picture, number)
    if not encoders:
        raise EvaluationError("empty_clip", "the clip has no frame")
    return {crf: encoder.close() for crf, encoder in encoders.items()}


def streams_of(
    store: StreamStore,
    digest: str,
    frames: Iterable[Pixels],
    rival: Rival,
    *,
    fps: float,
    key_every: int,
) -> dict[int, Stream]:
    """A clip by the rival at every CRF; what is in the store is not made again.

    digest: of the clip's frames. frames: read only where something is missing. Raises
    EvaluationError as :func:`encode` does.
    """
    keys = {crf: f"{digest}/{rival.identity}/{crf}/{fps}/{key_every}" for crf in rival.crfs}
    found = {crf: store.read(key) for crf, key in keys.items()}
    missing = [crf for crf, stream in found.items() if stream is None]
    if missing:
        for crf, stream in encode(frames, rival, missing, fps=fps, key_every=key_every).items():
            store.write(keys[crf], stream)
            found[crf] = stream
    return {crf: stream for crf, stream in found.items() if stream is not None}


class Decoder:
    """A stream's frames, decoded in order. ``decode_s``: CPU seconds so far, without YUV to RGB."""

    def __init__(self, stream: Stream, rival: Rival) -> None:
        self._stream, self._rival = stream, rival
        self.decode_s = 0.0

    def frames(self, wanted: frozenset[int]) -> Iterator[tuple[int, Pixels]]:
        """Numbers and pictures of the wanted frames; all are decoded.

        Raises EvaluationError ``rival_failed`` when a frame is missing.
        """
        context = cast("VideoCodecContext", av.CodecContext.create(self._rival.decoder, "r"))
        context.thread_count = 1
        number = 0
        for packet in (*self._stream.packets, None):
            began = time.process_time()
            pictures = context.decode(None if packet is None else av.Packet(packet))
            self.decode_s += time.process_time() - began
            for picture in pictures:
                if number in wanted:
                    yield number, cast(Pixels, picture.to_ndarray(format="rgb24"))
                number += 1
        if number != len(self._stream.packets):
            text = f"{self._rival.name}: {len(self._stream.packets)} frames in, {number} out"
            raise EvaluationError("rival_failed", text)


class StreamStore:
    """Encoded streams kept in a folder, so that a new bundle costs only its own points."""

    def __init__(self, folder: Path | None) -> None:
        """folder: None keeps nothing."""
        self._folder = folder

    def read(self, key: str) -> Stream | None:
        """None where there is none, or a damaged one."""
        if self._folder is None:
            return None
        try:
            with np.load(self._path(key), allow_pickle=False) as arrays:
                ends = np.cumsum(arrays["sizes"])
                data = arrays["data"].tobytes()
                starts = [0, *ends[:-1]]
                packets = tuple(data[a:b] for a, b in zip(starts, ends, strict=True))
                width, height = (int(side) for side in arrays["size"])
                keys = tuple(map(bool, arrays["keys"]))
                return Stream(packets, keys, float(arrays["encode_s"]), (width, height))
        except (OSError, ValueError, KeyError, zipfile.BadZipFile):
            return None

    def write(self, key: str, stream: Stream) -> None:
        """The file appears whole or not at all."""
        if self._folder is None:
            return
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            np.savez(
                file,
                sizes=np.array(stream.sizes, np.int64),
                data=np.frombuffer(b"".join(stream.packets), np.uint8),
                keys=np.array(stream.keys),
                encode_s=np.array(stream.encode_s),
                size=np.array(stream.size, np.int64),
            )
        partial.replace(path)

    def _path(self, key: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.npz"


class _Encoder:
    """One encoder at one CRF."""

    def __init__(
        self, rival: Rival, crf: int, size: tuple[int, int], fps: float, key_every: int
    ) -> None:
        os.environ.setdefault("SVT_LOG", "1")  # errors alone: it writes past any logger
        context = cast("VideoCodecContext", av.CodecContext.create(rival.encoder, "w"))
        context.width, context.height = size
        context.pix_fmt = "yuv420p"
        rate = Fraction(fps).limit_denominator(1001)
        context.framerate, context.time_base = rate, 1 / rate
        context.thread_count = 1
        context.gop_size = key_every
        context.options = dict(rival.options) | {"crf": str(crf)}
        with _as_urgent_as_before():
            context.open()
        self._context, self._rival, self._size = context, rival, size
        self._packets: list[Any] = []
        self._encode_s = 0.0

    def add(self, picture: av.VideoFrame, number: int) -> None:
        picture.pts, picture.time_base = number, self._context.time_base
        self._step(picture)

    def close(self) -> Stream:
        self._step(None)
        times = [packet.pts for packet in self._packets]
        if times != list(range(len(times))):
            text = f"{self._rival.name}: packets are not one a frame, in order"
            raise EvaluationError("rival_failed", text)
        shorter = _SHORTER.get(self._rival.encoder, bytes)
        return Stream(
            tuple(shorter(bytes(packet)) for packet in self._packets),
            tuple(packet.is_keyframe for packet in self._packets),
            self._encode_s,
            self._size,
        )

    def _step(self, picture: av.VideoFrame | None) -> None:
        began = time.process_time()
        try:
            self._packets += self._context.encode(picture)
        except av.FFmpegError as error:
            raise EvaluationError("rival_failed", f"{self._rival.name}: {error}") from None
        self._encode_s += time.process_time() - began


@contextmanager
def _as_urgent_as_before() -> Iterator[None]:
    """SVT-AV1, where root runs it, makes its caller and its own threads real-time ones, which
    leave nothing of a core to others: they are what they were again."""
    if not sys.platform.startswith("linux"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    yield
    for task in Path("/proc/self/task").iterdir():
        with suppress(ProcessLookupError):
            if os.sched_getscheduler(int(task.name)) != policy:
                os.sched_setscheduler(int(task.name), policy, parameters)


def _without_words(packet: bytes) -> bytes:
    """H.264 without the message of 700 bytes in which x264 says its settings."""
    units = packet.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]
    return b"".join(b"\0\0\0\1" + unit for unit in units if unit[0] & 31 != _H264_SEI)


def _without_delimiter(packet: bytes) -> bytes:
    """AV1 without the temporal delimiter, which no file has."""
    return packet.removeprefix(b"\x12\0")


_SHORTER = {"libx264": _without_words, "libsvtav1": _without_delimiter}


def _has(name: str, mode: str) -> bool:
    try:
        av.codec.Codec(name, "w" if mode == "w" else "r")
    except av.codec.codec.UnknownCodecError:
        return False
    return True
