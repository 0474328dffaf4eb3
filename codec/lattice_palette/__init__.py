"""Lattice palettes: channels rounded to whole steps, coded in groups with symbol distributions."""
