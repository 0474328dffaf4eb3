"""Training of the Markov palette; the fit step needs torch, numpy, Pillow and safetensors alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codec.markov_palette.train.trainer import MarkovPaletteTrainer
    from shared.bundle import Bundle


def open_trainer() -> MarkovPaletteTrainer:
    """See :func:`codec.base.trainer`."""
    from codec.markov_palette.train.trainer import MarkovPaletteTrainer

    return MarkovPaletteTrainer()


def small_bundle(folder: Path) -> Bundle:
    """See :func:`codec.base.small_bundle`."""
    from codec.markov_palette.train import small

    return small.small_bundle(folder)
