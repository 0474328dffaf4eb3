"""Lattice palettes: channels rounded to whole steps, coded in groups with distributions of symbols.

Where a palette of patterns would need large trees (few values, finely told apart), every channel
is a palette of its own: the whole steps within its limits, all of which merge into its mean.
"""

from __future__ import annotations

from shared.lattice.contexts import LatticeContexts, PictureLattice
from shared.lattice.network import GroupNetwork
from shared.lattice.palette import LatticePalette, LatticePass, LatticePlane, Values
from shared.lattice.tables import symbol_tables

__all__ = [
    "GroupNetwork",
    "LatticeContexts",
    "LatticePalette",
    "LatticePass",
    "LatticePlane",
    "PictureLattice",
    "Values",
    "symbol_tables",
]
