"""Augmented views of training photos: features at the cut, and what the whole network says.

The network is frozen, so both are computed once and kept as float16 in memory-mapped files.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field
from torch import Tensor

from codec.kit.crops import PhotoCache
from codec.kit.recipe import Part
from codec.lattice_palette.train.networks.base import Features, Outputs, SplitNetwork
from shared.preprocess import Placement

Pixels = npt.NDArray[np.uint8]
_BATCH = 8


class ViewSettings(Part):
    """held_out: whole photos that come first and are measured on, never trained on. views: of the
    other photos. whole, cropped, paired: shares of views that are a whole photo, a crop, two crops
    side by side; the rest are four crops, so that there are small objects too.
    """

    views: int = Field(5000, ge=8)
    held_out: int = Field(160, ge=1)
    whole: float = Field(0.4, ge=0, le=1)
    cropped: float = Field(0.3, ge=0, le=1)
    paired: float = Field(0.15, ge=0, le=1)
    seed: int = 5


class Views:
    """What :func:`make_views` wrote. Views 0 to ``held_out`` - 1 are not for training."""

    def __init__(self, folder: Path) -> None:
        """Raises FileNotFoundError when there are none."""
        self._features = _open(folder, "features")
        self._outputs = _open(folder, "outputs")
        self.held_out = int((folder / "held_out.txt").read_text())

    def __len__(self) -> int:
        return len(next(iter(self._features.values())))

    def features(self, chosen: npt.NDArray[np.int64]) -> Features:
        """float32 [n, C, h, w] by scale."""
        return _rows(self._features, chosen)

    def outputs(self, chosen: npt.NDArray[np.int64]) -> Outputs:
        """The network's raw outputs, float32 [n, ...] by name."""
        return _rows(self._outputs, chosen)

    @property
    def trained(self) -> npt.NDArray[np.int64]:
        """The numbers of the views to train on."""
        return np.arange(self.held_out, len(self))


def make_views(
    network: SplitNetwork,
    cache: PhotoCache,
    settings: ViewSettings,
    folder: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Views:
    """Draw the views, run the network on them, and keep features and outputs in ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(settings.seed)
    drawn = np.flatnonzero(cache.chances > 0)
    held = rng.permutation(drawn)[: min(settings.held_out, len(drawn) // 4)]
    chances = cache.chances.copy()
    chances[held] = 0
    chances /= chances.sum()
    info, total = network.info, len(held) + settings.views

    def view(number: int) -> Pixels:
        if number < len(held):
            return fitted(np.array(cache[int(held[number])]), info.width, info.height, info.fit)
        return _draw(cache, chances, network, settings, rng)

    files: dict[str, npt.NDArray[np.float16]] = {}
    with torch.no_grad():
        for start in range(0, total, _BATCH):
            pictures = np.stack([view(n) for n in range(start, min(start + _BATCH, total))])
            features = network.head(torch.from_numpy(pictures).permute(0, 3, 1, 2).float())
            found = {f"features.{name}": value for name, value in features.items()}
            found |= {f"outputs.{name}": v for name, v in network.tail(features).items()}
            for name, value in found.items():
                if name not in files:
                    files[name] = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                        folder / f"{name}.npy", "w+", np.float16, (total, *value.shape[1:])
                    )
                files[name][start : start + len(value)] = value.numpy()
            progress(min(start + _BATCH, total), total)
    for file in files.values():
        file.flush()  # type: ignore[attr-defined]  # a memmap
    (folder / "held_out.txt").write_text(f"{len(held)}\n")
    return Views(folder)


def fitted(photo: Pixels, width: int, height: int, fit: Literal["stretch", "letterbox"]) -> Pixels:
    """The photo at the network's size, as edge clients bring it there."""
    rows, columns = photo.shape[:2]
    return Placement.of(columns, rows, width, height, fit).apply(np.ascontiguousarray(photo))


def _draw(
    cache: PhotoCache,
    chances: npt.NDArray[np.float64],
    network: SplitNetwork,
    settings: ViewSettings,
    rng: np.random.Generator,
) -> Pixels:
    info = network.info

    def photo(least: float) -> Pixels:
        whole = np.array(cache[int(rng.choice(len(cache), p=chances))])
        return whole if least >= 1 else _crop(whole, least, rng)

    kind = rng.random()
    if kind < settings.whole:
        out = fitted(photo(1), info.width, info.height, info.fit)
    elif kind < settings.whole + settings.cropped:
        out = fitted(photo(0.25), info.width, info.height, info.fit)
    else:
        pair = kind < settings.whole + settings.cropped + settings.paired
        across, down = (int(rng.uniform(0.36, 0.64) * n) for n in (info.width, info.height))
        columns = [(0, across), (across, info.width)]
        rows = [(0, down), (down, info.height)]
        if pair and rng.random() < 0.5:
            rows = [(0, info.height)]
        elif pair:
            columns = [(0, info.width)]
        out = np.zeros((info.height, info.width, 3), np.uint8)
        for top, bottom in rows:
            for left, right in columns:
                out[top:bottom, left:right] = fitted(
                    photo(0.5), right - left, bottom - top, "stretch"
                )
    return out[:, ::-1] if rng.random() < 0.5 else out


def _crop(photo: Pixels, least: float, rng: np.random.Generator) -> Pixels:
    """A crop of at least ``least`` of the area, its proportions changed by up to a third."""
    height, width = photo.shape[:2]
    area, shape = rng.uniform(least, 1), np.exp(rng.uniform(-0.3, 0.3))
    rows = min(height, max(1, int(height * area**0.5 * shape)))
    columns = min(width, max(1, int(width * area**0.5 / shape)))
    top, left = rng.integers(0, height - rows + 1), rng.integers(0, width - columns + 1)
    return photo[top : top + rows, left : left + columns]


def _open(folder: Path, kind: str) -> dict[str, npt.NDArray[np.float16]]:
    found = {
        path.name[len(kind) + 1 : -4]: np.load(path, mmap_mode="r")
        for path in sorted(folder.glob(f"{kind}.*.npy"))
    }
    if not found:
        raise FileNotFoundError(f"{folder} has no {kind}; run the views step first")
    return found


def _rows(
    files: dict[str, npt.NDArray[np.float16]], chosen: npt.NDArray[np.int64]
) -> dict[str, Tensor]:
    return {
        name: torch.from_numpy(np.ascontiguousarray(file[chosen], np.float32))
        for name, file in files.items()
    }
