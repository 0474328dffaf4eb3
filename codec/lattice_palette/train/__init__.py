"""Training of the lattice palette: a frozen network cut in two, a bottleneck between its halves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codec.lattice_palette.train.trainer import LatticePaletteTrainer


def open_trainer() -> LatticePaletteTrainer:
    """See :func:`codec.base.trainer`."""
    from codec.lattice_palette.train.trainer import LatticePaletteTrainer

    return LatticePaletteTrainer()
