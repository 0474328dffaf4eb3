"""How long a frame may take: both ends use the same formula."""

from __future__ import annotations

DEADLINE_PER_MEGAPIXEL_S = 6.0
"""Seconds for every megapixel after the first, unless the server is told otherwise."""


def frame_deadline(
    base_s: float, width: int, height: int, per_megapixel_s: float = DEADLINE_PER_MEGAPIXEL_S
) -> float:
    """Seconds for a picture of ``width`` x ``height`` pixels; ``base_s`` up to one megapixel."""
    return base_s + per_megapixel_s * max(0.0, width * height / 1e6 - 1.0)
