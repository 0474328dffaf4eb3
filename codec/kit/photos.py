"""The photos step: every training photo, decoded once, reduced, in one memory-mapped file."""

from __future__ import annotations

import hashlib
import json
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from shared.bundle import Bundle
from shared.errors import PhotoError, RecipeError
from shared.preprocess import load_photo

CACHE = "cache"
"""The photos step's folder in a run's."""
SHORT_SIDE = 448
_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".avif", ".bmp", ".ppm", ".tif", ".tiff"}
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class PhotoSource:
    """A folder, tar or photo to train on.

    weight: how often its photos are drawn, relative to 1; of a source of weight 0 only the held-out
    groups are of use. skip: photos whose name contains one of
    these are not photos to train on (label pictures, validation parts). group: a regular
    expression whose first group names what a photo shows (a person); of the sorted names every
    ``hold_out_every``-th is kept out of training, for evaluation.
    """

    path: Path
    weight: float = 1.0
    skip: tuple[str, ...] = ()
    group: str | None = None
    hold_out_every: int = 0


def make_cache(
    sources: Iterable[PhotoSource],
    excluded: Iterable[Path],
    folder: Path,
    *,
    short_side: int,
    progress: Callable[[str], None] = lambda name: None,
) -> dict[str, Any]:
    """Write ``photos.u8`` and ``photos.json`` into ``folder``; returns the index.

    sources, excluded: photos, folders or tar files. A photo whose 64-bit difference hash is
    within 6 bits of an excluded (evaluation) photo's is left out and named in the index, so
    that nothing that is evaluated on enters training. Unreadable photos are named, not fatal.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seen = [difference_hash(pixels) for path in excluded for _, pixels, _ in _photos(path)]
    photos: list[dict[str, Any]] = []
    left_out: list[str] = []
    digest = hashlib.sha256()
    offset = 0
    with (folder / "photos.u8.partial").open("wb") as output:
        for source, name, pixels, problem in _trained_on(sources):
            progress(name)
            if problem is not None:
                left_out.append(f"{name}: {problem}")
                continue
            mine = difference_hash(pixels)
            if any((mine ^ other).bit_count() <= 6 for other in seen):
                left_out.append(f"{name}: like an evaluation photo")
                continue
            reduced = reduce_to(pixels, short_side)
            data = np.ascontiguousarray(reduced).tobytes()
            output.write(data)
            digest.update(data)
            photos.append(
                {
                    "name": name,
                    "height": reduced.shape[0],
                    "width": reduced.shape[1],
                    "offset": offset,
                    "weight": source.weight,
                }
            )
            offset += len(data)
    (folder / "photos.u8.partial").replace(folder / "photos.u8")
    index = {"photos": photos, "left_out": left_out, "sha256": digest.hexdigest()}
    (folder / "photos.json").write_text(json.dumps(index))
    return index


def reduce_to(pixels: Pixels, short_side: int) -> Pixels:
    """The photo reduced so that its short side is at most ``short_side`` pixels."""
    height, width = pixels.shape[:2]
    factor = short_side / min(height, width)
    if factor >= 1:
        return pixels
    size = (round(width * factor), round(height * factor))
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS))


def difference_hash(pixels: Pixels) -> int:
    """64-bit difference hash: signs of horizontal differences of a 9x8 greyscale reduction."""
    small = Image.fromarray(pixels).convert("L").resize((9, 8), Image.Resampling.BOX)
    grey = np.asarray(small, np.int16)
    bits = np.packbits((grey[:, 1:] > grey[:, :-1]).ravel())
    return int.from_bytes(bits.tobytes(), "big")


def held_out_groups(source: PhotoSource) -> set[str]:
    """The groups (people) of a source that are kept out of training; empty without any."""
    if not source.group or not source.hold_out_every:
        return set()
    groups = sorted({_group(source.group, name) for name, _ in _files(source.path)})
    return set(groups[:: source.hold_out_every])


def is_held_out(source: PhotoSource, name: str, groups: set[str]) -> bool:
    """Whether a photo of the source belongs to one of its held-out groups."""
    return bool(source.group) and _group(source.group or "", name) in groups


def _trained_on(
    sources: Iterable[PhotoSource],
) -> Iterator[tuple[PhotoSource, str, Pixels, str | None]]:
    for source in (source for source in sources if source.weight > 0):
        held_out = held_out_groups(source)
        for name, pixels, problem in _photos(source.path):
            if any(part in name for part in source.skip):
                continue
            if is_held_out(source, name, held_out):
                continue
            yield source, name, pixels, problem


def _group(pattern: str, name: str) -> str:
    found = re.search(pattern, name)
    return found.group(1) if found else name


def _photos(source: Path) -> Iterator[tuple[str, Pixels, str | None]]:
    nothing = np.zeros((16, 16, 3), np.uint8)
    for name, data in _files(source):
        try:
            yield name, load_photo(data), None
        except PhotoError as error:
            yield name, nothing, error.reason


def _files(source: Path) -> Iterator[tuple[str, bytes]]:
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.suffix.lower() in _SUFFIXES:
                yield path.name, path.read_bytes()
    elif source.suffix == ".tar":
        with tarfile.open(source) as archive:
            for member in archive:
                if member.isfile() and Path(member.name).suffix.lower() in _SUFFIXES:
                    file = archive.extractfile(member)
                    if file is not None:
                        yield f"{source.stem}/{member.name}", file.read()
    else:
        yield source.name, source.read_bytes()


def readable_photos(source: Path) -> Iterator[tuple[str, Pixels]]:
    """Names and pixels (uint8 [H, W, 3]) of the photos in a folder, tar or file."""
    for name, pixels, problem in _photos(source):
        if problem is None:
            yield name, pixels


def need(path: Path, step: str) -> None:
    """Raise RecipeError ``step_missing`` when a step's result is not there."""
    if not path.exists():
        raise RecipeError("step_missing", f"{path} is missing; run the {step} step first")


def bundle_figures(bundle: Bundle, folder: Path) -> dict[str, Any]:
    """What an export step returns of a bundle that it wrote; the bundle is read again."""
    bundle.verify()
    sizes = {name: entry.size_bytes for name, entry in bundle.manifest.files.items()}
    return {"bundle": str(folder), "id": bundle.id, "bytes": sizes}
