"""Moving material to train on: videos, pictures in their order, and photos that are made to move.

Contexts of predicted frames are fitted to pieces of it: a few frames that follow each other, of
many scenes. Evaluation clips are not to be among the sources.
"""

from __future__ import annotations

import fnmatch
import io
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from codec.kit.recipe import Part
from shared.errors import PhotoError, RecipeError
from shared.installation import install_command
from shared.preprocess import load_photo

Pixels = npt.NDArray[np.uint8]
"""A picture: uint8 [height, width, 3], RGB."""

_PICTURES = (".jpg", ".jpeg", ".png", ".webp")
_SHOT_VARIANCE, _READ_VARIANCE = 8e-4, 1.5e-4
"""At most, of a value in 0..1: shot x value + read."""
_VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")


class SequenceSource(Part):
    """Material in its order. path: a video, a folder or tar of videos or of pictures whose names
    sort as they follow each other, relative to --data. only, skip: patterns of names."""

    path: str
    only: tuple[str, ...] = ("*",)
    skip: tuple[str, ...] = ()


class SequencesPart(Part):
    """What contexts of predicted frames are fitted to.

    pieces: of each source's clip at most, spread over it. frames: of a piece. noisy: of so many
    pieces of a source one comes a second time, with a small sensor's noise; 0 is none. photos:
    pieces that are photos made to move.
    """

    sources: tuple[SequenceSource, ...] = ()
    pieces: int = Field(12, ge=1)
    frames: int = Field(20, ge=2)
    noisy: int = Field(0, ge=0)
    photos: int = Field(60, ge=0)
    seed: int = 7


def pieces_of(source: SequenceSource, data: Path, part: SequencesPart) -> Iterator[list[Pixels]]:
    """Pieces of a source: lists of ``frames`` pictures that follow each other, some of them a
    second time with noise.

    Raises RecipeError ``not_found`` for a source that is not there, ``missing_library`` for videos
    without PyAV, or ``unreadable``.
    """
    path = data / source.path
    if not path.exists():
        raise RecipeError("not_found", f"there is no {path}")
    rng = np.random.default_rng(part.seed)
    for number, piece in enumerate(_plain_pieces(source, path, part)):
        yield piece
        if part.noisy and number % part.noisy == 0:
            yield noised(piece, rng)


def material(
    part: SequencesPart, data: Path, photos: Iterable[Pixels], rng: np.random.Generator
) -> Iterator[list[Pixels]]:
    """All pieces: those of the sources, then photos that are made to move as ``rng`` draws it.

    data: what the sources are relative to. Raises RecipeError as :func:`pieces_of` does.
    """
    for source in part.sources:
        yield from pieces_of(source, data, part)
    for photo in photos:
        yield moving(photo, part, rng)


def noised(piece: Sequence[Pixels], rng: np.random.Generator) -> list[Pixels]:
    """Pictures with a sensor's shot and read noise, other noise on every one; how much is drawn for
    the piece, up to that of a small sensor at night.

    A. Foi et al., "Practical Poissonian-Gaussian noise modeling and fitting for single-image
    raw-data", IEEE TIP 2008.
    """
    gain, noisy = rng.uniform(0.1, 1), []
    for picture in piece:
        values = picture.astype(np.float32) / 255
        deviation = np.sqrt(gain * (_SHOT_VARIANCE * values + _READ_VARIANCE))
        values += deviation * rng.standard_normal(values.shape, np.float32)
        noisy.append((values.clip(0, 1) * 255).round().astype(np.uint8))
    return noisy


def _plain_pieces(
    source: SequenceSource, path: Path, part: SequencesPart
) -> Iterator[list[Pixels]]:
    pictures = False
    for name, content in _contents(path):
        if not any(fnmatch.fnmatch(name, pattern) for pattern in source.only):
            continue
        if any(fnmatch.fnmatch(name, pattern) for pattern in source.skip):
            continue
        if name.lower().endswith(_VIDEOS):
            yield from _spread(_video(content, name), part)
        pictures |= name.lower().endswith(_PICTURES)
    if pictures:
        yield from _spread(_pictures(path, source), part)


def moving(photo: Pixels, part: SequencesPart, rng: np.random.Generator) -> list[Pixels]:
    """A photo as a camera might show it: panned, zoomed, shaken, its light changed, with noise.

    What moves, and how much, is drawn; some stand still and have noise only. The frames are of two
    thirds of the photo's sides.
    """
    height, width = photo.shape[:2]
    rows, columns = max(32, 2 * height // 3), max(32, 2 * width // 3)
    still = rng.random() < 0.25
    speed = 0.0 if still else float(rng.choice([0.002, 0.006, 0.02]))
    pan = rng.normal(0, speed, 2) * (height, width)
    shake = 0.0 if still else float(rng.choice([0, 0.3, 1.0]))
    zoom = 1.0 if still else float(np.exp(rng.normal(0, 0.003)))
    light = float(np.exp(rng.normal(0, 0.004))) if rng.random() < 0.3 else 1.0
    noise = float(rng.choice([0, 1, 2, 5]))
    middle = np.array([height, width]) / 2 - pan * part.frames / 2
    image, frames, scale, gain = Image.fromarray(photo), [], 1.0, 1.0
    for _ in range(part.frames):
        centre = middle + rng.normal(0, shake, 2)
        half = np.array([rows, columns]) * scale / 2
        centre = np.clip(centre, half, np.maximum(half, np.array([height, width]) - half))
        (top, left), (bottom, right) = (centre - half).tolist(), (centre + half).tolist()
        shown = image.resize(
            (columns, rows),
            Image.Resampling.BICUBIC,
            box=(max(0, left), max(0, top), min(width, right), min(height, bottom)),
        )
        pixels = np.asarray(shown, np.float32) * gain
        pixels += rng.normal(0, 1, pixels.shape) * noise
        frames.append(pixels.round().clip(0, 255).astype(np.uint8))
        middle = middle + pan
        scale, gain = min(scale * zoom, 1.45), min(gain * light, 1.3)
    return frames


def _spread(frames: Iterable[Pixels], part: SequencesPart) -> Iterator[list[Pixels]]:
    """``pieces`` pieces of consecutive frames; a clip's frames are gone through once, with no more
    than a piece of them in memory, so what is left over at its end is not used."""
    gap, piece, skip, made, passed = part.frames, list[Pixels](), 0, 0, 0
    for frame in frames:
        passed += 1
        if skip:
            skip -= 1
            continue
        piece.append(frame)
        if len(piece) == part.frames:
            yield piece
            made, piece, skip = made + 1, [], gap
            gap += part.frames // 2
            if made == part.pieces:
                return


def _contents(path: Path) -> Iterator[tuple[str, Path | bytes]]:
    """Names and files, sorted by name; of a tar, their bytes where they are videos."""
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if file.is_file():
                yield str(file.relative_to(path)), file
    elif path.suffix == ".tar":
        with tarfile.open(path) as tar:
            for name in sorted(tar.getnames()):
                member = tar.getmember(name)
                if member.isfile():
                    video = name.lower().endswith(_VIDEOS)
                    opened = tar.extractfile(member)
                    assert opened is not None
                    yield name, opened.read() if video else b""
    else:
        yield path.name, path


def _pictures(path: Path, source: SequenceSource) -> Iterator[Pixels]:
    def wanted(name: str) -> bool:
        return (
            name.lower().endswith(_PICTURES)
            and any(fnmatch.fnmatch(name, pattern) for pattern in source.only)
            and not any(fnmatch.fnmatch(name, pattern) for pattern in source.skip)
        )

    if path.is_dir():
        for file in sorted(path.rglob("*")):
            if wanted(str(file.relative_to(path))):
                yield _photo(file)
        return
    with tarfile.open(path) as tar:
        for name in sorted(tar.getnames()):
            if wanted(name):
                opened = tar.extractfile(tar.getmember(name))
                assert opened is not None
                yield _photo(opened.read())


def _photo(file: Path | bytes) -> Pixels:
    try:
        return load_photo(file)
    except PhotoError as error:
        raise RecipeError("unreadable", f"a picture to train on: {error.message}") from None


def _video(content: Path | bytes, name: str) -> Iterator[Pixels]:
    try:
        import av
    except ImportError:
        raise RecipeError(
            "missing_library", f"videos are read with PyAV: {install_command('stream')}"
        ) from None
    try:
        opened = str(content) if isinstance(content, Path) else io.BytesIO(content)
        with av.open(opened, "r") as file:
            for frame in file.decode(video=0):
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    except av.error.FFmpegError as error:
        raise RecipeError("unreadable", f"{name}: {error}") from None
