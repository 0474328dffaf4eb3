"""Real photos that packages ship."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def _skimage(name: str) -> Callable[[], Any]:
    def load() -> Any:
        from skimage import data

        return getattr(data, name)()

    return load


def _sklearn(name: str) -> Callable[[], Any]:
    def load() -> Any:
        from sklearn.datasets import load_sample_image

        return load_sample_image(name)

    return load


# A woman; a cup on a table; a cat; a rocket; a temple; a flower.
PHOTOS: dict[str, Callable[[], Any]] = {
    "astronaut": _skimage("astronaut"),
    "coffee": _skimage("coffee"),
    "chelsea": _skimage("chelsea"),
    "rocket": _skimage("rocket"),
    "china": _sklearn("china.jpg"),
    "flower": _sklearn("flower.jpg"),
}

PHOTO_FILES = {
    "portrait.jpg": "astronaut",
    "table.jpg": "coffee",
    "cat.jpg": "chelsea",
    "temple.jpg": "china",
    "flower.jpg": "flower",
    "rocket.jpg": "rocket",
}
"""Files that the documents' commands name, each with the photo that it holds."""
