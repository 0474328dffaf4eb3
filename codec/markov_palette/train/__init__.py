"""Training of the Markov palette; the fit step needs torch, numpy, Pillow and safetensors alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codec.markov_palette.train.trainer import MarkovPaletteTrainer


def open_trainer() -> MarkovPaletteTrainer:
    """See :func:`codec.base.trainer`."""
    from codec.markov_palette.train.trainer import MarkovPaletteTrainer

    return MarkovPaletteTrainer()
