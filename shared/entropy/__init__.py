"""Entropy coding of palette splits: an integer context model, and a range coder."""

from __future__ import annotations

from shared.entropy.network import PlaneNetwork
from shared.entropy.picture_contexts import ContextModel, PictureContexts
from shared.entropy.probability import PROBABILITY_ONE
from shared.entropy.range_coder import (
    BitDecoder,
    BitEncoder,
    SymbolDecoder,
    SymbolEncoder,
    SymbolTables,
)

__all__ = [
    "PROBABILITY_ONE",
    "BitDecoder",
    "BitEncoder",
    "ContextModel",
    "PictureContexts",
    "PlaneNetwork",
    "SymbolDecoder",
    "SymbolEncoder",
    "SymbolTables",
]
