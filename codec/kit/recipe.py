"""Recipes, by file or by name: strict parts, the photos to train on, reading one, the photos step.

A recipe names its codec, whose trainer follows it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from codec.base import Report, Trainer, codec_names, trainer
from codec.kit.photos import CACHE, SHORT_SIDE, PhotoSource, make_cache
from shared.errors import RecipeError

DEFAULT_RECIPE = "picture"
PHOTOS_SUMMARY = "Decode and reduce the training photos once."


class Part(BaseModel):
    """A part of a recipe: unknown keys are errors, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


AnyRecipe = TypeVar("AnyRecipe", bound=Part)


class SourcePart(Part):
    """Photos to train on; see :class:`codec.kit.photos.PhotoSource`."""

    path: str = Field(description="a folder, tar or photo, relative to --data")
    weight: float = Field(1.0, ge=0)
    skip: tuple[str, ...] = ()
    group: str | None = None
    hold_out_every: int = Field(0, ge=0)


class PhotosPart(Part):
    """What the photos step reads; ``exclude`` are the photos that are evaluated on."""

    sources: tuple[SourcePart, ...] = Field(min_length=1)
    exclude: tuple[str, ...] = ()
    short_side: int = Field(448, ge=64, le=4096)

    def below(self, data: Path) -> list[PhotoSource]:
        """The training sources with paths below ``data``."""
        return [
            PhotoSource(data / s.path, s.weight, s.skip, s.group, s.hold_out_every)
            for s in self.sources
        ]


class BundleRecipe(Part):
    """What every recipe says. codec: which trainer follows it, by its name in manifests."""

    codec: str
    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]{0,39}$")
    version: str = "1"
    description: str = ""
    photos: PhotosPart | None = None


def open_recipe(
    which: str | Path | None = None, changes: Sequence[str] = ()
) -> tuple[Trainer[Any], BundleRecipe]:
    """A recipe and the trainer of the codec that it names.

    which: a file, or the name of a recipe that a codec brings; None is the default bundle's.
    changes: ``PART.KEY=VALUE`` each. Raises RecipeError ``not_found``, ``bad_recipe`` with the
    place and what is wrong.
    """
    source = recipe_file(which or DEFAULT_RECIPE)
    values = _read_values(source)
    name = values.get("codec")
    if not isinstance(name, str):
        raise RecipeError("bad_recipe", f"{source}: codec: a recipe names its codec")
    if name not in codec_names():
        known = ", ".join(codec_names())
        raise RecipeError(
            "bad_recipe", f"{source}: codec: codec {name!r} is unknown; there are {known}"
        )
    found = trainer(name)
    return found, _check_recipe(values, found.recipe, source, changes)


def recipe_file(which: str | Path) -> Path:
    """The file of a recipe. Raises RecipeError ``not_found``."""
    path = Path(which)
    if path.exists():
        return path
    packaged = _packaged()
    if str(which) not in packaged:
        known = ", ".join(sorted(packaged))
        raise RecipeError(
            "not_found", f"{which}: no such file, and no recipe of that name: {known}"
        )
    return packaged[str(which)]


def photos_step(
    recipe: BundleRecipe,
    run: Path,
    report: Report,
    *,
    data: Annotated[Path, "Folder that the recipe's paths start at; or photos, without any there."],
) -> dict[str, Any]:
    """Decode and reduce the photos to train on, leaving out what looks like evaluation photos.

    A recipe without photos takes all that is in ``data``, a folder or tar. Raises RecipeError
    ``not_found``.
    """
    wanted = recipe.photos
    sources = [PhotoSource(data)] if wanted is None else wanted.below(data)
    excluded = [] if wanted is None else [data / part for part in wanted.exclude]
    for path in [*(source.path for source in sources), *excluded]:
        if not path.exists():
            raise RecipeError("not_found", f"{path} does not exist")
    done = 0

    def progress(name: str) -> None:
        nonlocal done
        done += 1
        report(done, 0, {})

    side = SHORT_SIDE if wanted is None else wanted.short_side
    index = make_cache(sources, excluded, run / CACHE, short_side=side, progress=progress)
    photos = len(index["photos"])
    return {"photos": photos, "left_out": index["left_out"], "sha256": index["sha256"]}


def _packaged() -> dict[str, Path]:
    """``codec/NAME/train/recipes/*.yaml`` by their names."""
    folder = Path(__file__).parents[1]
    return {path.stem: path for path in folder.glob("*/train/recipes/*.yaml")}


def _check_recipe(
    values: Mapping[str, Any], model: type[AnyRecipe], source: Path, changes: Sequence[str] = ()
) -> AnyRecipe:
    """A recipe's plain values, with ``changes`` made, as its codec's model.

    changes: ``PART.KEY=VALUE`` each, the value in YAML. source: for errors. Raises RecipeError
    ``bad_recipe`` with the place and what is wrong.
    """
    changed = dict(values)
    for change in changes:
        place, equals, value = change.partition("=")
        *parts, key = place.split(".")
        if not equals or not key:
            raise RecipeError("bad_recipe", f"a change is PART.KEY=VALUE, not {change!r}")
        inner = changed
        for part in parts:
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                raise RecipeError("bad_recipe", f"{place}: {part} has no keys")
        inner[key] = yaml.safe_load(value)
    try:
        return model.model_validate(changed)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecipeError("bad_recipe", f"{source}: {where}: {first['msg']}") from None


def _read_values(source: Path) -> dict[str, Any]:
    """A recipe's plain values. Raises RecipeError ``not_found`` or ``bad_recipe``."""
    try:
        values = yaml.safe_load(source.read_text())
    except OSError as error:
        raise RecipeError("not_found", f"{source}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise RecipeError("bad_recipe", f"{source}: {error}") from None
    if not isinstance(values, dict):
        raise RecipeError("bad_recipe", f"{source}: a recipe is a mapping")
    return values
