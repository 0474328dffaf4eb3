"""What is asked of an encoding: a rate or a quality, and regions that shall be finer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from shared.errors import BudgetError

MAX_REGIONS: Final = 16


@dataclass(frozen=True, slots=True)
class RateTarget:
    """What a picture may cost: at most one field is set; none means the finest state.

    state: of the bundle, 0 finest. bits_per_pixel: of the whole file, per pixel of the
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


@dataclass(frozen=True, slots=True)
class Region:
    """A rectangle in shares of the picture's sides, and the state that it shall have.

    Raises BudgetError ``bad_region`` unless 0 <= min < max <= 1 on both sides, and the state is
    0 to 255.
    """

    x_min: float
    y_min: float
    x_max: float
    y_max: float
    state: int = 0

    def __post_init__(self) -> None:
        if not (
            0 <= self.x_min < self.x_max <= 1
            and 0 <= self.y_min < self.y_max <= 1
            and 0 <= self.state <= 255
        ):
            raise BudgetError(
                "bad_region",
                "a region lies within 0 to 1 of both sides, is not empty, and has a state of 0 to "
                f"255; this one goes from {self.x_min:g} to {self.x_max:g} across and from "
                f"{self.y_min:g} to {self.y_max:g} down, with state {self.state}",
            )


Regions = tuple[Region, ...]


def parse_region(text: str) -> Region:
    """``X,Y,W,H`` or ``X,Y,W,H:STATE``: left, top, width and height in shares of the sides.

    Raises BudgetError ``bad_region``.
    """
    place, colon, state = text.partition(":")
    try:
        x, y, width, height = (float(number) for number in place.split(","))
        wanted = int(state) if colon else 0
    except ValueError:
        raise BudgetError(
            "bad_region", f"a region is X,Y,WIDTH,HEIGHT[:STATE] in shares of the sides, not {text}"
        ) from None
    # 0.1 + 0.9 may be a little more than 1.
    return Region(x, y, round(x + width, 9), round(y + height, 9), wanted)


def check_regions(
    regions: Sequence[Region], target: RateTarget = FINEST, rate_weight: float | None = None
) -> Regions:
    """Check regions against the target; returns them as a tuple.

    Raises BudgetError ``bad_region`` when there are too many, and ``bad_target`` where there are
    some and the rate is a PSNR or has a lambda.
    """
    if len(regions) > MAX_REGIONS:
        raise BudgetError("bad_region", f"{len(regions)} regions; there may be {MAX_REGIONS}")
    if regions and (target.psnr_db is not None or rate_weight):
        raise BudgetError(
            "bad_target", "regions go with a state, bits per pixel or bytes, without lambda"
        )
    return tuple(regions)
