"""Training of the lattice palette: a frozen network cut in two, a bottleneck between its halves."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codec.lattice_palette.train.trainer import LatticePaletteTrainer
    from shared.bundle import Bundle


def open_trainer() -> LatticePaletteTrainer:
    """See :func:`codec.base.trainer`."""
    from codec.lattice_palette.train.trainer import LatticePaletteTrainer

    return LatticePaletteTrainer()


def small_bundle(folder: Path) -> Bundle:
    """See :func:`codec.base.small_bundle`."""
    from codec.lattice_palette.train import small

    return small.small_bundle(folder)


def _small_nested_bundle(folder: Path) -> Bundle:
    from codec.lattice_palette.train.nested import small

    return small.small_nested_bundle(folder)


SMALL_BUNDLES = {"steps": small_bundle, "nested": _small_nested_bundle}
