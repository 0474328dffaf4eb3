"""The photos that are evaluated on: never trained on, with what is known to be on them."""

from __future__ import annotations

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from codec.kit.photos import PhotoSource, held_out_groups, is_held_out, readable_photos, reduce_to
from codec.markov_palette.train.recipe import Recipe
from shared.errors import FeatherwireError

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
    sources: Iterable[Path], long_side: int, recipe: Recipe | None = None
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


def _trained_source(path: Path, recipe: Recipe | None) -> PhotoSource | None:
    """The recipe's source of the same file name, at ``path``."""
    for source in recipe.photos.below(path.parent) if recipe is not None else []:
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
