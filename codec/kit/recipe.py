"""What every recipe has: strict parts, the photos to train on, and reading it from YAML."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from codec.kit.photos import PhotoSource
from shared.errors import RecipeError


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


def check_recipe(
    values: Mapping[str, Any], model: type[AnyRecipe], source: Path, changes: Sequence[str] = ()
) -> AnyRecipe:
    """A recipe's plain values, with ``changes`` made, as its codec's model.

    changes: ``PART.KEY=VALUE`` each, the value in YAML. source: for errors. Raises RecipeError
    ``bad_recipe`` with the place and what is wrong.
    """
    changed = copy.deepcopy(dict(values))
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


def read_values(source: Path) -> dict[str, Any]:
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
