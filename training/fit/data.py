"""Random crops out of the photo cache that the photos step wrote."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from training.fit.crops import Crop, random_crop
from training.fit.labels import TextureLabels

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

    def __getitem__(self, number: int) -> np.ndarray:
        """The photo as uint8 [h, w, 3] (a view of the file)."""
        entry = self.entries[number]
        height, width, start = entry["height"], entry["width"], entry["offset"]
        return self._pixels[start : start + height * width * 3].reshape(height, width, 3)


def batches(cache: PhotoCache, side: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Endless batches float32 [batch, 3, side, side] in -0.5..0.5, made by a worker thread."""
    rng = np.random.default_rng(seed)
    return _ahead(lambda: _pictures(cache, _draw(cache, side, batch, rng), side))


def labelled_batches(
    cache: PhotoCache, labels: TextureLabels, side: int, stride: int, batch: int, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same crops as :func:`batches`, with the texture at each position of a scale.

    The labels are int64 [batch, side / stride, side / stride], ``NO_LABEL`` where there is none.
    """
    rng = np.random.default_rng(seed)

    def make() -> tuple[Tensor, Tensor]:
        drawn = _draw(cache, side, batch, rng)
        found = np.stack([labels.crop(number, crop, side, stride) for number, crop in drawn])
        return _pictures(cache, drawn, side), torch.from_numpy(found).long()

    return _ahead(make)


def _draw(
    cache: PhotoCache, side: int, batch: int, rng: np.random.Generator
) -> list[tuple[int, Crop]]:
    drawn = []
    for number in rng.choice(len(cache), batch, p=cache.chances):
        entry = cache.entries[number]
        drawn.append((int(number), random_crop(entry["height"], entry["width"], side, rng)))
    return drawn


def _pictures(cache: PhotoCache, drawn: list[tuple[int, Crop]], side: int) -> Tensor:
    crops = np.stack([crop.cut(cache[number], side) for number, crop in drawn])
    return torch.from_numpy(crops).permute(0, 3, 1, 2).float().div_(255).sub_(0.5)


def _ahead(make: Callable[[], _Item]) -> Iterator[_Item]:
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
