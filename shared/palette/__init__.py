"""The Markov palette: nested palettes whose colours merge in pairs from state to state."""

from __future__ import annotations

from shared.palette.chain import DiffusionState, MarkovPalette, Pass, PlaneSpec
from shared.palette.prediction import ScalePrediction
from shared.palette.tree import PaletteTree

__all__ = [
    "DiffusionState",
    "MarkovPalette",
    "PaletteTree",
    "Pass",
    "PlaneSpec",
    "ScalePrediction",
]
