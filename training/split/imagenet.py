"""The names of ImageNet's 1000 classes, as torchvision ships them."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

from training.recipe import RecipeError

_LIST = "_IMAGENET_CATEGORIES"


def imagenet_classes() -> tuple[str, ...]:
    """The names in the order of the classes' numbers.

    They stand in a plain file of the package, which is read and not run: importing the package
    needs a build of it that fits torch's. Raises RecipeError ``missing_package``.
    """
    found = importlib.util.find_spec("torchvision")
    for folder in (found.submodule_search_locations or ()) if found else ():
        file = Path(folder) / "models" / "_meta.py"
        if file.exists():
            names = _literal(file.read_text(encoding="utf-8"))
            if len(names) == 1000:
                return names
    raise RecipeError("missing_package", "ImageNet's class names come with torchvision; install it")


def _literal(source: str) -> tuple[str, ...]:
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == _LIST for target in statement.targets
        ):
            return tuple(str(name) for name in ast.literal_eval(statement.value))
    return ()
