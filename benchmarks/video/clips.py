"""Clips to measure on: video files, tars and folders of them or of pictures in order, and derived.

vtest.avi                 a video file
video.tar                 every video in it
camvid.tar/val            pictures in order, of one folder of a tar
vtest.avi+noise           with a sensor's noise added
vtest.avi+still           its first picture, again and again
vtest.avi+still+noise     a still scene before a real sensor
vtest.avi+cuts            as cut to another camera every two seconds
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import cast

import av
import cv2
import numpy as np
import numpy.typing as npt

from shared.errors import PhotoError
from shared.preprocess import load_photo
from training.evaluate.photos import EvaluationError

Pixels = npt.NDArray[np.uint8]
"""A frame: uint8 [height, width, 3], RGB; both sides are even."""

NOISE, STILL, CUTS = "noise", "still", "cuts"
SHOT_S = 2.0
"""How long a camera is shown in a clip with cuts."""
VTEST = Path("/usr/share/doc/opencv-doc/examples/data/vtest.avi")
"""Where Debian's package `opencv-doc` puts its clip of a street."""
_VIDEOS = frozenset({".avi", ".mp4", ".mkv", ".mov", ".webm", ".m4v", ".mpg", ".ts", ".y4m"})
_PICTURES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".ppm"})
_LABELS = "_labels"
"""Pictures so named say what is where, and are no frames."""
_PICTURES_FPS = 15.0
HELD_BYTES = 600_000_000
"""Of a clip's frames in memory: 300 of 960x540. Longer clips are read anew for every codec."""
SHOT_VARIANCE, READ_VARIANCE = 8e-4, 1.5e-4
"""Of a value in 0..1: shot x value + read. A standard deviation of 6 of 255 at middle grey: a
small sensor at night. A. Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for
single-image raw-data", IEEE TIP 2008."""


@dataclass(frozen=True)
class Clip:
    """Frames in order, read anew whenever they are asked for.

    fps: frames a second. read: an iterator of all frames. derived: what was done to them.
    """

    name: str
    fps: float
    read: Callable[[], Iterator[Pixels]]
    derived: tuple[str, ...] = ()

    def frames(self, limit: int | None = None) -> Iterator[Pixels]:
        """The first ``limit`` frames, all of one size. Raises EvaluationError ``bad_clip``."""
        size: tuple[int, ...] | None = None
        for frame in islice(self.read(), limit):
            even = np.ascontiguousarray(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
            if size is not None and even.shape != size:
                raise EvaluationError("bad_clip", f"{self.name}: frames of several sizes")
            size = even.shape
            yield even


def held(clip: Clip, limit: int) -> Clip:
    """The clip's first frames, made once and kept in memory where there is room for them."""
    kept, used = [], 0
    for frame in clip.frames(limit):
        used += frame.nbytes
        if used > HELD_BYTES:
            return clip
        kept.append(frame)
    return replace(clip, read=lambda: iter(kept))


def digest_of(frames: Iterable[Pixels]) -> str:
    """SHA-256 of sizes and pixels of all frames, 64 hex digits."""
    found = hashlib.sha256()
    for frame in frames:
        found.update(f"{frame.shape[1]}x{frame.shape[0]}:".encode() + frame.tobytes())
    return found.hexdigest()


def open_clips(words: Sequence[str], folder: Path) -> list[Clip]:
    """The clips that the words name, in their order.

    folder: where members of tars are unpacked to, as far as they are wanted. Raises EvaluationError
    ``no_clip`` for what is not there or holds no clip, ``bad_clip`` for what cannot be read.
    """
    clips = []
    for word in words:
        source, *changes = word.split("+")
        if set(changes) - set(_DERIVED):
            known = ", ".join(f"+{change}" for change in _DERIVED)
            raise EvaluationError("no_clip", f"{word}: clips are derived by {known}")
        found = list(_of_source(source, folder))
        if not found:
            raise EvaluationError("no_clip", f"there is no video, and no pictures, at {source}")
        for clip in found:
            for change in changes:
                clip = _DERIVED[change](clip)
            clips.append(clip)
    names = [clip.name for clip in clips]
    if len(set(names)) < len(names):
        raise EvaluationError("no_clip", f"two clips have the same name: {', '.join(names)}")
    return clips


def default_words(data: Path) -> list[str]:
    """The development set: what of it there is on this machine.

    data: the folder of video.tar and camvid.tar.
    """
    words = [str(VTEST)] if VTEST.is_file() else []
    if (data / "video.tar").is_file():
        words.append(str(data / "video.tar"))
    if (data / "camvid.tar").is_file():
        words.append(str(data / "camvid.tar" / "val"))
    if VTEST.is_file():
        changes = (NOISE, CUTS, STILL, f"{STILL}+{NOISE}")
        words += [f"{VTEST}+{change}" for change in changes]
    return words


def noisy(clip: Clip, seed: int = 0) -> Clip:
    """The clip with shot and read noise added, other noise on every frame."""

    def read() -> Iterator[Pixels]:
        for number, frame in enumerate(clip.read()):
            rng = np.random.default_rng([seed, number])
            values = frame.astype(np.float32) / 255
            deviation = np.sqrt(SHOT_VARIANCE * values + READ_VARIANCE)
            values += deviation * rng.standard_normal(values.shape, np.float32)
            yield np.rint(np.clip(values, 0, 1) * 255).astype(np.uint8)

    return Clip(f"{clip.name}+{NOISE}", clip.fps, read, (*clip.derived, NOISE))


def still(clip: Clip) -> Clip:
    """The clip's first frame without end."""

    def read() -> Iterator[Pixels]:
        first = next(clip.read())
        while True:
            yield first

    return Clip(f"{clip.name}+{STILL}", clip.fps, read, (*clip.derived, STILL))


def cut(clip: Clip) -> Clip:
    """The clip as a director would show it who has four cameras: another view every two seconds.

    Views are the whole picture, its lower left two thirds enlarged, all of it in the mirror, and
    its upper right two thirds enlarged. Time goes on meanwhile.
    """
    length = max(1, round(SHOT_S * clip.fps))

    def read() -> Iterator[Pixels]:
        for number, frame in enumerate(clip.read()):
            yield _view(frame, number // length % 4)

    return Clip(f"{clip.name}+{CUTS}", clip.fps, read, (*clip.derived, CUTS))


def _view(frame: Pixels, camera: int) -> Pixels:
    if camera == 0:
        return frame
    if camera == 2:
        return np.ascontiguousarray(frame[:, ::-1])
    height, width = (2 * side // 3 for side in frame.shape[:2])
    part = frame[-height:, :width] if camera == 1 else frame[:height, -width:]
    size = (frame.shape[1], frame.shape[0])
    return cast(Pixels, cv2.resize(part, size, interpolation=cv2.INTER_CUBIC))


_DERIVED: Mapping[str, Callable[[Clip], Clip]] = {NOISE: noisy, STILL: still, CUTS: cut}


# -- reading ---------------------------------------------------------------------------------------


def _of_source(source: str, folder: Path) -> Iterator[Clip]:
    path, inside = _split(Path(source))
    if path.is_file() and tarfile.is_tarfile(path):
        wanted = hashlib.sha256(str(path.resolve() / inside).encode()).hexdigest()
        where = folder / f"{path.stem}-{wanted[:8]}"
        _unpack(path, inside, where)
        yield from _of_folder(where, path.stem)
    elif path.is_dir() and not inside.parts:
        yield from _of_folder(path, path.name)
    elif path.is_file() and not inside.parts:
        yield _of_video(path)


def _split(path: Path) -> tuple[Path, PurePosixPath]:
    """The file or folder, and what is wanted of what is inside."""
    for outer in (path, *path.parents):
        if outer.is_file() or outer.is_dir():
            return outer, PurePosixPath(path.relative_to(outer))
    return path, PurePosixPath()


def _unpack(path: Path, inside: PurePosixPath, folder: Path) -> None:
    """Videos and pictures of the tar at or below ``inside``; what is there already stays."""
    with tarfile.open(path) as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if not member.isfile() or name.suffix.lower() not in _VIDEOS | _PICTURES:
                continue
            if inside.parts and not name.is_relative_to(inside):
                continue
            if name.is_absolute() or ".." in name.parts:
                raise EvaluationError("bad_clip", f"{path}: {member.name} leads out of the tar")
            target = folder / name
            if not target.is_file() or target.stat().st_size != member.size:
                archive.extract(member, folder, filter="data")


def _of_folder(folder: Path, name: str) -> Iterator[Clip]:
    """Videos, and a clip a folder that has pictures."""
    inside = sorted(path for path in folder.rglob("*") if path.is_file())
    for path in inside:
        if path.suffix.lower() in _VIDEOS:
            yield _of_video(path)
    pictures: dict[Path, list[Path]] = {}
    for path in inside:
        if path.suffix.lower() in _PICTURES and not path.stem.endswith(_LABELS):
            pictures.setdefault(path.parent, []).append(path)
    for parent, paths in pictures.items():
        below = "-".join(parent.relative_to(folder).parts)
        yield _of_pictures(f"{name}-{below}" if below else name, paths)


def _of_pictures(name: str, paths: Sequence[Path]) -> Clip:
    def read() -> Iterator[Pixels]:
        for path in paths:
            try:
                yield load_photo(path)
            except PhotoError as error:
                raise EvaluationError("bad_clip", f"{path}: {error.message}") from None

    return Clip(name, _PICTURES_FPS, read)


def _of_video(path: Path) -> Clip:
    def read() -> Iterator[Pixels]:
        try:
            with av.open(str(path)) as container:
                container.streams.video[0].codec_context.thread_count = 1
                for frame in container.decode(video=0):
                    yield cast(Pixels, frame.to_ndarray(format="rgb24"))
        except (av.FFmpegError, IndexError) as error:
            raise EvaluationError("bad_clip", f"{path}: {error}") from None

    fps = 0.0
    with suppress(av.FFmpegError, IndexError), av.open(str(path)) as container:
        fps = float(container.streams.video[0].average_rate or 0)
    return Clip(path.stem, fps or 25.0, read)
