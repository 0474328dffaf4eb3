"""Values of options that typer does not check well enough."""

from __future__ import annotations

import math
from collections.abc import Callable

import typer


def finite(meaning: str, *, minimum: float = -math.inf) -> Callable[[str], float]:
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
        return value

    return parse
