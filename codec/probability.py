"""Probabilities of a bit as 16-bit integers."""

from __future__ import annotations

from typing import Final

PROBABILITY_ONE: Final = 1 << 16
"""The denominator: a probability is an integer numerator over it, from 1 up."""
