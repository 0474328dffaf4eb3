"""Annotated sets at their own size: COCO's folder layout, our tars, and label pictures."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from codec.markov_palette.train.recipe import Recipe
from shared.errors import PhotoError
from shared.preprocess import load_photo
from training.evaluate.photos import (
    ANNOTATIONS,
    EvaluationError,
    EvaluationPhoto,
    evaluation_photos,
    read_annotations,
)

_WHOLE = 1_000_000
"""A long side in pixels that no photo exceeds: nothing is reduced."""
_LABELS = "_labels.png"


def annotated_photos(
    source: Path, recipe: Recipe | None = None, split: str | None = None, *, bare: bool = False
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
