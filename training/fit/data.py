"""Random crops out of the photo cache that the photos step wrote."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor


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


def random_crop(photo: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A square crop, taken at a random scale (down to half size) and mirrored half the time."""
    height, width = photo.shape[:2]
    largest = min(height, width, 2 * side)
    take = int(rng.integers(min(side, largest), largest + 1)) if rng.random() < 0.5 else side
    take = min(take, largest)
    top = int(rng.integers(0, height - take + 1))
    left = int(rng.integers(0, width - take + 1))
    crop = photo[top : top + take, left : left + take]
    if take != side:
        crop = np.asarray(Image.fromarray(crop).resize((side, side), Image.Resampling.LANCZOS))
    return crop[:, ::-1] if rng.random() < 0.5 else crop


def batches(cache: PhotoCache, side: int, batch: int, seed: int) -> Iterator[Tensor]:
    """Endless batches float32 [batch, 3, side, side] in -0.5..0.5, made by a worker thread."""
    ready: queue.Queue[Tensor] = queue.Queue(maxsize=6)
    stop = threading.Event()

    def produce() -> None:
        rng = np.random.default_rng(seed)
        while not stop.is_set():
            numbers = rng.choice(len(cache), batch, p=cache.chances)
            crops = np.stack([random_crop(cache[int(n)], side, rng) for n in numbers])
            tensor = torch.from_numpy(crops).permute(0, 3, 1, 2).float().div_(255).sub_(0.5)
            while not stop.is_set():
                try:
                    ready.put(tensor, timeout=0.5)
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
