"""What a picture may cost, or how good it shall be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from shared.errors import BudgetError


@dataclass(frozen=True, slots=True)
class RateTarget:
    """What a picture may cost: at most one field is set; none means the finest state.

    state: a diffusion state, 0 finest. bits_per_pixel: of the whole file, per pixel of the
    picture. max_bytes: of the whole file. psnr_db: of the reconstruction, in decibels, as the
    bundle's model expects it; with ``best_effort`` the finest state where that is out of reach.
    Raises BudgetError ``two_targets`` or ``bad_target``.
    """

    state: int | None = None
    bits_per_pixel: float | None = None
    max_bytes: int | None = None
    psnr_db: float | None = None
    best_effort: bool = False

    def __post_init__(self) -> None:
        targets = (self.state, self.bits_per_pixel, self.max_bytes, self.psnr_db)
        given = [value for value in targets if value is not None]
        if len(given) > 1:
            raise BudgetError("two_targets", "give one of state, bits per pixel, bytes and PSNR")
        if any(not 0 <= value < math.inf for value in given):
            text = f"a rate target must be a finite number of 0 or more: {given[0]}"
            raise BudgetError("bad_target", text)
        if self.best_effort and self.psnr_db is None:
            raise BudgetError("bad_target", "best effort is for a PSNR target, and there is none")

    def budget_bytes(self, width: int, height: int) -> int | None:
        """The file's byte budget for a picture of that size, if the target is a rate."""
        if self.bits_per_pixel is not None:
            return int(min(self.bits_per_pixel * width * height / 8, 2**53))
        return self.max_bytes


FINEST = RateTarget()
