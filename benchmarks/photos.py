"""Photos out of packages, for demo, benchmarks and the documents' commands; and a photo at every
state, side by side.

    python -m benchmarks.photos FOLDER
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from shared.bundle import Bundle
from shared.errors import FeatherwireError
from shared.weights import ModelStore
from training.evaluate.subjects import Halves, PictureStates

Pixels = npt.NDArray[np.uint8]

_LONG_SIDE = 640
_COLUMNS = 4
_GAP = 6
_LABEL = 18
_MOST_BYTES = 150_000


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


def write_examples(folder: Path) -> list[Path]:
    """Write the photos that the documents' commands name, as JPEG files at their own size, and all
    of them again in ``folder/photos``; returns the paths of the first."""
    from skimage import data
    from sklearn.datasets import load_sample_image

    pictures: dict[str, np.ndarray] = {
        "portrait": data.astronaut(),
        "table": data.coffee(),
        "cat": data.chelsea(),
        "temple": load_sample_image("china.jpg"),
        "flower": load_sample_image("flower.jpg"),
        "rocket": data.rocket(),
    }
    paths = []
    for place in (folder / "photos", folder):
        place.mkdir(parents=True, exist_ok=True)
        paths = [place / f"{name}.jpg" for name in pictures]
        for path, pixels in zip(paths, pictures.values(), strict=True):
            Image.fromarray(np.asarray(pixels)).convert("RGB").save(path, quality=92)
    return paths


def write_strip(
    bundle: Bundle, pixels: Pixels, window: tuple[int, int, int, int], path: Path
) -> None:
    """Write a WebP picture of at most 150 kB: original first, then states coarse to fine.

    pixels: uint8 [H, W, 3], coded whole; window: what is shown of it, (left, top, right, bottom),
    at its own size, so that what is lost can be seen. Bytes are of the whole photo's file.
    """
    states = PictureStates(Halves(bundle))
    area = pixels.shape[0] * pixels.shape[1]
    left, top, right, bottom = window
    cells = [("original", pixels[top:bottom, left:right])]
    for coded in states.points(pixels, states.knobs):
        label = f"state {coded.knob}: {coded.bytes} bytes, {8 * coded.bytes / area:.3f} bpp"
        assert coded.picture is not None
        cells.append((label, coded.picture[top:bottom, left:right]))
    sheet = _sheet(cells)
    for quality in range(92, 40, -4):
        sheet.save(path, "WEBP", quality=quality, method=6)
        if path.stat().st_size <= _MOST_BYTES:
            return


def _sheet(cells: list[tuple[str, Pixels]]) -> Image.Image:
    height, width = cells[0][1].shape[:2]
    rows = -(-len(cells) // _COLUMNS)
    step = (width + _GAP, height + _LABEL + _GAP)
    size = (_COLUMNS * step[0] - _GAP, rows * step[1] - _GAP)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for number, (label, pixels) in enumerate(cells):
        left, top = number % _COLUMNS * step[0], number // _COLUMNS * step[1]
        draw.text((left + 2, top + 1), label, fill="black", font=font)
        sheet.paste(Image.fromarray(pixels), (left, top + _LABEL))
    return sheet


if __name__ == "__main__":
    for example in write_examples(Path(sys.argv[1])):
        print(example)
