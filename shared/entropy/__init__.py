"""Entropy coding of palette splits: integer contexts, integer tables, a range coder."""

from __future__ import annotations

from shared.entropy.contexts import Exchange, PlaneContexts
from shared.entropy.picture_contexts import ContextModel, PictureContexts
from shared.entropy.range_coder import BitDecoder, BitEncoder
from shared.entropy.tables import PROBABILITY_ONE, ContextTables

__all__ = [
    "PROBABILITY_ONE",
    "BitDecoder",
    "BitEncoder",
    "ContextModel",
    "ContextTables",
    "Exchange",
    "PictureContexts",
    "PlaneContexts",
]
