"""Values of options that typer does not check well enough."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import typer

_SUFFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


def finite(
    meaning: str, *, minimum: float = -math.inf, maximum: float = math.inf
) -> Callable[[str], float]:
    """A parser for an option that takes a finite number, ``meaning`` in words.

    typer calls NaN too small and takes infinity; this says what is wrong. A parser replaces the
    check of ``min`` as well, which the option keeps for its help.
    """

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise typer.BadParameter(f"{meaning} must be a finite number, not {text}")
        if value < minimum:
            raise typer.BadParameter(f"{meaning} must be at least {minimum:g}, not {text}")
        if value > maximum:
            raise typer.BadParameter(f"{meaning} must be at most {maximum:g}, not {text}")
        return value

    return parse


def bits_per_second(text: str) -> float:
    """``64k`` or ``1.5M`` as a number; raises typer.BadParameter."""
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+)([kMG]?)", text)
    value = float(found[1]) * _SUFFIXES[found[2]] if found else 0.0
    if not 0 < value < 1e15:
        raise typer.BadParameter(
            f"a bandwidth is a number of bits a second above 0, such as 64k or 1.5M, not {text}"
        )
    return value
