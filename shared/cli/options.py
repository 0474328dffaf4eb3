"""Options: values that typer does not check well enough, and groups that several commands share.

A group is a dataclass each of whose fields is an option.
"""

from __future__ import annotations

import functools
import inspect
import math
import re
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import typer

_SUFFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


def finite(
    meaning: str, *, minimum: float = -math.inf, maximum: float = math.inf
) -> Callable[[str], float]:
    """A parser for an option that takes a finite number, ``meaning`` in words.

    typer calls NaN too small and takes infinity; this reports what is wrong. A parser replaces the
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


def takes(group: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that gives a command, whose first parameter is a ``group``, its fields as
    options.

    group: a dataclass; its fields are annotated as a command's parameters are.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        first, *own = inspect.signature(command, eval_str=True).parameters.values()
        shared = inspect.signature(group, eval_str=True).parameters.values()
        names = [field.name for field in fields(group)]

        @functools.wraps(command)
        def wrapped(**values: Any) -> None:
            made = group(**{name: values.pop(name) for name in names})
            command(**{first.name: made}, **values)

        options = [p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in (*own, *shared)]
        wrapped.__signature__ = inspect.Signature(options)  # type: ignore[attr-defined]
        wrapped.__annotations__ = {option.name: option.annotation for option in options}
        return wrapped

    return decorate
