"""Texture labels of the photo cache's patches, looked up for crops."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from training.fit.crops import Crop

LABELS_FILE = "textures.npz"
NO_LABEL = -1
Labels = npt.NDArray[np.int16]
Places = npt.NDArray[np.float64]


@dataclass(frozen=True)
class PatchGrid:
    """Square patches of ``window`` pixels, every ``step`` pixels, from the upper left corner."""

    window: int = 64
    step: int = 32

    def shape(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches that fit into a picture; (0, 0) when none does."""
        rows, columns = ((side - self.window) // self.step + 1 for side in (height, width))
        return (rows, columns) if rows > 0 and columns > 0 else (0, 0)

    def nearest(self, labels: Labels, rows: Places, columns: Places) -> Labels:
        """Labels of the patches whose centres are nearest to places in the picture.

        labels: [rows, columns] of patches, at least one. rows, columns: float64, in pixels.
        Returns [len(rows), len(columns)].
        """
        numbers = [
            np.rint((places - self.window / 2) / self.step).astype(np.int64).clip(0, patches - 1)
            for places, patches in zip((rows, columns), labels.shape, strict=True)
        ]
        return labels[np.ix_(*numbers)]


class TextureLabels:
    """What the texture step wrote beside the photos."""

    def __init__(self, folder: Path) -> None:
        """folder: the photo cache. Raises ValueError for labels of other photos."""
        with np.load(folder / LABELS_FILE, allow_pickle=False) as file:
            self._labels: Labels = file["labels"]
            self._shapes: npt.NDArray[np.int32] = file["shapes"]
            self.grid = PatchGrid(int(file["window"]), int(file["step"]))
            self.textures = len(file["centres"])
            photos = str(file["photos"])
        if photos != fingerprint(folder):
            raise ValueError(f"{folder / LABELS_FILE} is of other photos; run the texture step")
        ends = np.cumsum(self._shapes.prod(1, dtype=np.int64))
        self._starts = np.concatenate(([0], ends))

    def photo(self, number: int) -> Labels:
        """The labels of a photo's patches: int16 [rows, columns], none in a photo too small."""
        start, end = self._starts[number : number + 2]
        return self._labels[start:end].reshape(self._shapes[number])

    def crop(self, number: int, crop: Crop, side: int, stride: int) -> Labels:
        """Labels of the patches around each latent position: int16 [side / stride] * 2.

        A position takes the label of the patch whose centre is nearest to its own, through the
        crop's scale and mirroring. ``NO_LABEL`` everywhere in a photo without patches.
        """
        positions = side // stride
        labels = self.photo(number)
        if labels.size == 0:
            return np.full((positions, positions), NO_LABEL, np.int16)
        centres = (np.arange(positions) + 0.5) * stride * crop.take / side
        found = self.grid.nearest(labels, crop.top + centres, crop.left + centres)
        return found[:, ::-1] if crop.mirrored else found


def fingerprint(folder: Path) -> str:
    """The SHA-256 of a photo cache's photos: names, sizes and places, whatever they weigh."""
    photos = json.loads((folder / "photos.json").read_text())["photos"]
    rows = [[photo[key] for key in ("name", "height", "width", "offset")] for photo in photos]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()
