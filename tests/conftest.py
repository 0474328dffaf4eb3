"""What every test may rely on: real photos that packages ship, and repeatable random choices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from numpy.typing import NDArray
from PIL import Image

# Derandomised, so that a failure is the same on every machine; no deadline, because a first call
# that loads a library is slow and says nothing about the code under test.
settings.register_profile("featherwire", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("featherwire")


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


@pytest.fixture(scope="session", autouse=True)
def precision_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a test measures of this machine stays out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEATHERWIRE_PRECISION_CACHE", str(tmp_path_factory.mktemp("precision")))
        yield


@pytest.fixture(scope="session", autouse=True)
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What a server keeps when it is not told where stays out of the user's folders."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data-home")))
        yield


# A woman; a cup on a table; a cat; a rocket; a temple; a flower.
PHOTOS: dict[str, Callable[[], Any]] = {
    "astronaut": _skimage("astronaut"),
    "coffee": _skimage("coffee"),
    "chelsea": _skimage("chelsea"),
    "rocket": _skimage("rocket"),
    "china": _sklearn("china.jpg"),
    "flower": _sklearn("flower.jpg"),
}


@pytest.fixture(scope="session")
def photos() -> dict[str, NDArray[np.uint8]]:
    """Name to uint8 HxWx3 photo, 400 to 640 pixels a side; read only."""
    loaded = {name: np.ascontiguousarray(load(), dtype=np.uint8) for name, load in PHOTOS.items()}
    for photo in loaded.values():
        photo.setflags(write=False)
    return loaded


@pytest.fixture(scope="session")
def photo_files(
    photos: dict[str, NDArray[np.uint8]], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The same photos as PNG files."""
    folder = tmp_path_factory.mktemp("photos")
    for name, photo in photos.items():
        Image.fromarray(photo).save(folder / f"{name}.png", compress_level=1)
    return {name: folder / f"{name}.png" for name in photos}
