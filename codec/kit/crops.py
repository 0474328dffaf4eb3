"""Random crops out of the photo cache that the photos step wrote."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

_Item = TypeVar("_Item")


class PhotoCache:
    """uint8 photos in one memory-mapped file, with a JSON index beside it."""

    def __init__(self, folder: Path) -> None:
        self.entries = json.loads((folder / "photos.json").read_text())["photos"]
        weights = np.array([entry["weight"] for entry in self.entries], np.float64)
        self.chances = weights / weights.sum()
        self._pixels = np.memmap(folder / "photos.u8", np.uint8, "r")

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, number: int) -> Pixels:
        """The photo as uint8 [h, w, 3] (a view of the file)."""
        entry = self.entries[number]
        height, width, start = entry["height"], entry["width"], entry["offset"]
        return self._pixels[start : start + height * width * 3].reshape(height, width, 3)

    def drawn(self, count: int, rng: np.random.Generator) -> Iterator[Pixels]:
        """At most so many photos to train on, each once, in an order drawn by chance."""
        for number in rng.permutation(np.flatnonzero(self.chances > 0))[:count]:
            yield np.array(self[int(number)])


def batches(cache: PhotoCache, side: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Endless batches float32 [batch, 3, side, side] in -0.5..0.5, made by a worker thread."""
    rng = np.random.default_rng(seed)
    return ahead(lambda: pictures_of(cache, draw(cache, side, batch, rng), side))


def draw(
    cache: PhotoCache, side: int, batch: int, rng: np.random.Generator
) -> list[tuple[int, Crop]]:
    drawn = []
    for number in rng.choice(len(cache), batch, p=cache.chances):
        entry = cache.entries[number]
        drawn.append((int(number), random_crop(entry["height"], entry["width"], side, rng)))
    return drawn


def pictures_of(cache: PhotoCache, drawn: list[tuple[int, Crop]], side: int) -> Tensor:
    crops = np.stack([crop.cut(cache[number], side) for number, crop in drawn])
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float().div_(255).sub_(0.5)


def ahead(make: Callable[[], _Item]) -> Iterator[_Item]:
    """What ``make`` returns, for ever, a few items ahead in a thread."""
    ready: queue.Queue[_Item] = queue.Queue(maxsize=6)
    stop = threading.Event()

    def produce() -> None:
        while not stop.is_set():
            item = make()
            while not stop.is_set():
                try:
                    ready.put(item, timeout=0.5)
                    break
                except queue.Full:
                    continue

    worker = threading.Thread(target=produce, name="crops", daemon=True)
    worker.start()
    try:
        while True:
            yield ready.get()
    finally:
        stop.set()
        worker.join(timeout=5)


Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Crop:
    """A square of a photo, in its pixels, and whether it is turned left to right."""

    top: int
    left: int
    take: int
    mirrored: bool

    def cut(self, photo: Pixels, side: int) -> Pixels:
        """The square, resized to ``side`` pixels: uint8 [side, side, 3]."""
        pixels = photo[self.top : self.top + self.take, self.left : self.left + self.take]
        if self.take != side:
            resized = Image.fromarray(pixels).resize((side, side), Image.Resampling.LANCZOS)
            pixels = np.asarray(resized)
        return pixels[:, ::-1] if self.mirrored else pixels


def random_crop(height: int, width: int, side: int, rng: np.random.Generator) -> Crop:
    """A crop at a random scale (down to half size), mirrored half the time."""
    largest = min(height, width, 2 * side)
    take = int(rng.integers(min(side, largest), largest + 1)) if rng.random() < 0.5 else side
    take = min(take, largest)
    top = int(rng.integers(0, height - take + 1))
    left = int(rng.integers(0, width - take + 1))
    return Crop(top, left, take, mirrored=bool(rng.random() < 0.5))
