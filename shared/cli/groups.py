"""Options that several commands share, as a dataclass each of whose fields is one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import fields
from typing import Any


def takes(group: type[Any]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command, whose first parameter is a ``group``, that group's fields as options.

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
