"""The photos that are evaluated on: never trained on, with what is known to be on them."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from codec.kit.photos import PhotoSource, held_out_groups, is_held_out, readable_photos, reduce_to
from codec.kit.recipe import BundleRecipe
from shared.errors import FeatherwireError, PhotoError
from shared.preprocess import load_photo

Pixels = npt.NDArray[np.uint8]
ANNOTATIONS = "instances.json"


class EvaluationError(FeatherwireError):
    """Photos that cannot be evaluated on, or annotations that cannot be read."""


@dataclass(frozen=True)
class Truth:
    """An annotated object: COCO's category id and its box [x, y, width, height] in pixels.

    area: of the object itself in square pixels, by which COCO calls it small, medium or large;
    None where the annotation has none, and the box's counts.
    """

    category: int
    box: tuple[float, float, float, float]
    crowd: bool
    area: float | None = None


@dataclass(frozen=True)
class EvaluationPhoto:
    """uint8 [H, W, 3] pixels; ``truth`` is None where the set has no annotations.

    labels: uint8 [H, W], the class of every pixel, of sets that have label pictures.
    """

    name: str
    pixels: Pixels
    truth: tuple[Truth, ...] | None = None
    labels: Pixels | None = None

    @cached_property
    def digest(self) -> str:
        """SHA-256 of size and pixels, 64 hex digits."""
        height, width = self.pixels.shape[:2]
        head = f"{width}x{height}:".encode()
        return hashlib.sha256(head + np.ascontiguousarray(self.pixels).tobytes()).hexdigest()


def evaluation_photos(
    sources: Iterable[Path], long_side: int, recipe: BundleRecipe | None = None
) -> Iterator[EvaluationPhoto]:
    """Readable photos, reduced so that the long side is at most ``long_side`` pixels.

    Of a folder or tar that ``recipe`` trains on, only its held-out groups (people) are taken.
    Annotations are COCO's, from an ``instances.json`` in the folder or tar. Raises EvaluationError
    ``trained_on`` for photos that all were trained on, ``bad_annotations``.
    """
    for path in sources:
        trained = _trained_source(path, recipe)
        groups = held_out_groups(trained) if trained is not None else set()
        if trained is not None and not groups:
            raise EvaluationError(
                "trained_on", f"{path.name} is trained on by recipe {recipe and recipe.name!r}"
            )
        truths = _annotations(path)
        for name, pixels in readable_photos(path):
            if trained is not None and not is_held_out(trained, name, groups):
                continue
            height, width = pixels.shape[:2]
            factor = min(1.0, long_side / max(height, width))
            reduced = reduce_to(pixels, round(min(height, width) * factor))
            truth = None if truths is None else truths.get(Path(name).name, ())
            scale = (reduced.shape[1] / width, reduced.shape[0] / height)
            yield EvaluationPhoto(name, reduced, _scaled(truth, *scale))


def calibration_photos(
    sources: Iterable[Path], long_side: int, recipe: BundleRecipe
) -> Iterator[EvaluationPhoto]:
    """Readable photos of sets that may be fitted to; annotated or not, reduced as above.

    Raises EvaluationError ``evaluated_on`` for a set on which the recipe's bundle is evaluated.
    """
    sources = list(sources)
    kept = {Path(name).stem for name in recipe.photos.exclude} if recipe.photos else set()
    for path in sources:
        if path.resolve().stem in kept:
            raise EvaluationError(
                "evaluated_on",
                f"{path.name} is what bundles are evaluated on: nothing may be fitted to it",
            )
    yield from evaluation_photos(sources, long_side)


def _trained_source(path: Path, recipe: BundleRecipe | None) -> PhotoSource | None:
    """The recipe's source of the same file name, at ``path``."""
    for source in recipe.photos.below(path.parent) if recipe and recipe.photos else []:
        if source.path.name == path.resolve().name or source.path.stem == path.resolve().name:
            return replace(source, path=path)
    return None


def _annotations(path: Path) -> dict[str, tuple[Truth, ...]] | None:
    data = _annotation_bytes(path)
    return None if data is None else read_annotations(data, path)


def read_annotations(data: bytes, path: Path) -> dict[str, tuple[Truth, ...]]:
    """Objects by photo's file name, of COCO's JSON; path: for the error's text.

    Raises EvaluationError ``bad_annotations``.
    """
    try:
        document: dict[str, Any] = json.loads(data)
        names = {image["id"]: str(image["file_name"]) for image in document["images"]}
        found: dict[str, list[Truth]] = {name: [] for name in names.values()}
        for annotation in document["annotations"]:
            x, y, width, height = (float(value) for value in annotation["bbox"])
            area = annotation.get("area")
            truth = Truth(
                int(annotation["category_id"]),
                (x, y, width, height),
                bool(annotation.get("iscrowd", 0)),
                None if area is None else float(area),
            )
            found[names[annotation["image_id"]]].append(truth)
    except (ValueError, KeyError, TypeError) as error:
        raise EvaluationError("bad_annotations", f"{path}: {error!r}") from None
    return {name: tuple(objects) for name, objects in found.items()}


def _annotation_bytes(path: Path) -> bytes | None:
    if path.is_dir():
        file = path / ANNOTATIONS
        return file.read_bytes() if file.is_file() else None
    if path.suffix == ".tar":
        with tarfile.open(path) as archive:
            for member in archive:
                if member.isfile() and Path(member.name).name == ANNOTATIONS:
                    stream = archive.extractfile(member)
                    return None if stream is None else stream.read()
    return None


def _scaled(
    truth: tuple[Truth, ...] | None, across: float, down: float
) -> tuple[Truth, ...] | None:
    if truth is None:
        return None
    return tuple(
        Truth(
            one.category,
            (one.box[0] * across, one.box[1] * down, one.box[2] * across, one.box[3] * down),
            one.crowd,
            None if one.area is None else one.area * across * down,
        )
        for one in truth
    )


_WHOLE = 1_000_000
"""A long side in pixels that no photo exceeds: nothing is reduced."""
_LABELS = "_labels.png"


def annotated_photos(
    source: Path,
    recipe: BundleRecipe | None = None,
    split: str | None = None,
    *,
    bare: bool = False,
) -> Iterator[EvaluationPhoto]:
    """Photos with their annotations, at their own size.

    source: a folder with ``annotations/instances_SPLIT.json`` and photos in ``images/SPLIT/``,
    ``images/`` or ``SPLIT/`` (split: which, where there are several); a folder or tar of photos
    with an ``instances.json``; or one whose photos ``NAME.jpg`` have label pictures
    ``NAME_labels.png`` (split: the folder they are in). Of a tar with ``instances.json`` that
    ``recipe`` trains on only what it holds out. bare: photos without annotations will do. Raises
    EvaluationError: ``not_found``, ``no_annotations``, ``which_split``, ``bad_annotations``,
    ``trained_on``; ``missing_photos`` when none of the annotated photos is there.
    """
    if not source.exists():
        raise EvaluationError("not_found", f"there is nothing at {source}")
    if (source / "annotations").is_dir():
        return _coco_folder(source, split)
    names = _names(source)
    if any(Path(name).name == ANNOTATIONS for name in names):
        return evaluation_photos([source], _WHOLE, recipe)
    if any(name.endswith(_LABELS) for name in names):
        return _labelled(source, names, split)
    if bare:
        return evaluation_photos([source], _WHOLE, recipe)
    raise EvaluationError(
        "no_annotations",
        f"{source} has neither annotations/instances_*.json, nor {ANNOTATIONS}, nor *{_LABELS}",
    )


def _coco_folder(folder: Path, split: str | None) -> Iterator[EvaluationPhoto]:
    files = {
        path.stem.removeprefix("instances_"): path
        for path in sorted((folder / "annotations").glob("instances_*.json"))
    }
    if not files:
        raise EvaluationError("no_annotations", f"{folder}/annotations has no instances_*.json")
    if split is None and len(files) > 1:
        raise EvaluationError("which_split", f"choose a split with --split: {', '.join(files)}")
    chosen = split or next(iter(files))
    if chosen not in files:
        raise EvaluationError(
            "which_split", f"{folder} has no split {chosen!r}; it has {', '.join(files)}"
        )
    truths = read_annotations(files[chosen].read_bytes(), files[chosen])
    places = [folder / "images" / chosen, folder / chosen, folder / "images", folder]
    found = 0
    for name in sorted(truths):
        path = next((place / name for place in places if (place / name).is_file()), None)
        if path is None:
            continue
        found += 1
        yield EvaluationPhoto(Path(name).name, load_photo(path), truths[name])
    if truths and not found:
        raise EvaluationError("missing_photos", f"none of {len(truths)} photos is in {folder}")


def _labelled(source: Path, names: list[str], split: str | None) -> Iterator[EvaluationPhoto]:
    folders = sorted({Path(name).parent.as_posix() for name in names if name.endswith(_LABELS)})
    chosen = folders[0] if split is None else split
    if chosen not in folders or (split is None and len(folders) > 1):
        raise EvaluationError("which_split", f"choose one with --split: {', '.join(folders)}")
    names = [name for name in names if Path(name).parent.as_posix() == chosen]
    known = set(names)
    pairs = [
        (name, labels)
        for name in sorted(names)
        if not name.endswith(_LABELS)
        for labels in [str(Path(name).with_suffix("")) + _LABELS]
        if labels in known
    ]
    for name, data, labels in _read_pairs(source, pairs):
        try:
            pixels = load_photo(data)
            classes = np.asarray(Image.open(BytesIO(labels)))
        except (PhotoError, OSError, SyntaxError) as error:
            raise EvaluationError("bad_annotations", f"{source}: {name}: {error}") from None
        if classes.shape != pixels.shape[:2] or classes.dtype != np.uint8:
            raise EvaluationError("bad_annotations", f"{source}: the labels of {name} do not fit")
        yield EvaluationPhoto(name, pixels, None, classes)


def _names(source: Path) -> list[str]:
    if source.is_dir():
        return [str(p.relative_to(source)) for p in sorted(source.rglob("*")) if p.is_file()]
    if source.suffix != ".tar":
        return []
    try:
        with tarfile.open(source) as archive:
            return [str(Path(member.name)) for member in archive if member.isfile()]
    except (OSError, tarfile.TarError) as error:
        raise EvaluationError("bad_annotations", f"{source} cannot be read: {error}") from None


def _read_pairs(source: Path, pairs: list[tuple[str, str]]) -> Iterator[tuple[str, bytes, bytes]]:
    if source.is_dir():
        for name, labels in pairs:
            yield name, (source / name).read_bytes(), (source / labels).read_bytes()
        return
    with tarfile.open(source) as archive:
        members = {str(Path(member.name)): member for member in archive if member.isfile()}
        for name, labels in pairs:
            photo, map_ = archive.extractfile(members[name]), archive.extractfile(members[labels])
            assert photo is not None
            assert map_ is not None
            yield name, photo.read(), map_.read()
