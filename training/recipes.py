"""Recipes by file or by name, and the trainers that follow them: a recipe names its codec."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import codec
from codec.base import Trainer, trainer
from codec.kit.recipe import BundleRecipe, check_recipe, read_values
from shared.errors import BundleError, RecipeError

DEFAULT_RECIPE = "picture"


def open_recipe(
    which: str | Path | None = None, changes: Sequence[str] = ()
) -> tuple[Trainer[Any], BundleRecipe]:
    """A recipe and the trainer of the codec that it names.

    which: a file, or the name of a recipe that a codec brings; None is the default bundle's.
    changes: ``PART.KEY=VALUE`` each. Raises RecipeError ``not_found``, ``bad_recipe`` with the
    place and what is wrong.
    """
    source = recipe_file(which or DEFAULT_RECIPE)
    values = read_values(source)
    name = values.get("codec")
    if not isinstance(name, str):
        raise RecipeError("bad_recipe", f"{source}: codec: a recipe names its codec")
    try:
        found = trainer(name)
    except BundleError as error:
        raise RecipeError("bad_recipe", f"{source}: codec: {error.message}") from None
    return found, check_recipe(values, found.recipe, source, changes)


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


def _packaged() -> dict[str, Path]:
    """``codec/NAME/train/recipes/*.yaml`` by their names."""
    folder = Path(codec.__file__).parent
    return {path.stem: path for path in folder.glob("*/train/recipes/*.yaml")}
