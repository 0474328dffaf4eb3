"""Training of pictures for fidelity: a linear start, networks that restore, contexts, export."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codec.lapped_lattice.train.trainer import LappedTrainer
    from shared.bundle import Bundle


def open_trainer() -> LappedTrainer:
    """See :func:`codec.base.trainer`."""
    from codec.lapped_lattice.train.trainer import LappedTrainer

    return LappedTrainer()


def small_bundle(folder: Path, *, predicts: bool = False) -> Bundle:
    """See :func:`codec.base.small_bundle`. predicts: with contexts of predicted frames too, and a
    second decoder."""
    from codec.lapped_lattice.train import small

    return small.small_bundle(folder, predicts=predicts)


SMALL_BUNDLES = {"pictures": small_bundle, "streams": partial(small_bundle, predicts=True)}
