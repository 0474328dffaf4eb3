"""What we are willing to believe of bytes from outside, before anything is allocated."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper (and, for pictures, lower) bounds that every parser checks first.

    Sides are in pixels, sizes in bytes.
    """

    min_side: int = 16
    max_side: int = 8192
    max_layers: int = 64
    max_layer_bytes: int = 16 * 2**20
    max_file_bytes: int = 64 * 2**20
    max_bundle_bytes: int = 512 * 2**20
    max_photo_bytes: int = 512 * 2**20


DEFAULT_LIMITS = Limits()

CLOCK_SET_S = 1_735_689_600
"""2025, in seconds since 1970: a machine's clock that shows less has not been set."""
