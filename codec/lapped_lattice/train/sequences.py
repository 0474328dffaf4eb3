"""Moving material as the values of the transform, for contexts of predicted frames."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from codec.base import Pixels
from codec.kit.crops import PhotoCache
from codec.kit.sequences import SequencesPart, material
from codec.lapped_lattice.networks import STRIDE
from codec.lapped_lattice.train.networks import Analysis
from codec.lattice_palette.train.nested.contexts import Clip

ROWS, COLUMNS = 16, 20
"""At most, of a piece's positions: a window that is drawn, as large as cameras show it."""


def write_sequences(
    part: SequencesPart,
    analysis: Analysis,
    cache: PhotoCache,
    numbers: Sequence[int],
    data: Path,
    file: Path,
    progress: Callable[[int], None],
) -> list[int]:
    """Run the transform on pieces of videos, and on photos made to move; returns how many frames
    the pieces have.

    numbers: of photos to train on, in the order in which they are taken. data: what the sources are
    relative to. Raises RecipeError as :func:`codec.kit.sequences.pieces_of` does.
    """
    rng = np.random.default_rng(part.seed)
    kept: list[npt.NDArray[np.float16]] = []
    photos = (np.array(cache[number]) for number in numbers[: part.photos])
    for piece in material(part, data, photos, rng):
        window = _window(piece, rng)
        with torch.no_grad():
            shown = torch.from_numpy(window).permute(0, 3, 1, 2).float() / 255 - 0.5
            kept.append(analysis(shown).numpy().astype(np.float16))
        progress(len(kept))
    np.savez(file, *kept)
    return [len(clip) for clip in kept]


def read_sequences(file: Path) -> list[Clip]:
    """What :func:`write_sequences` kept: float32 [frames, C, h, w] a piece."""
    with np.load(file) as stored:
        return [stored[name].astype(np.float32) for name in stored.files]


def _window(piece: Sequence[Pixels], rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """A part of every frame, the same of all: uint8 [frames, H, W, 3], sides multiples of 16."""
    height, width = piece[0].shape[:2]
    rows = min(ROWS, height // STRIDE) * STRIDE
    columns = min(COLUMNS, width // STRIDE) * STRIDE
    top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    return np.stack([frame[top : top + rows, left : left + columns] for frame in piece])
