"""JSON that every reader takes, whatever names and numbers are in it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

_SURROGATE = re.compile("[\ud800-\udfff]")


def to_json(values: Any, *, indent: int | None = None) -> str:
    """Numbers that are none (NaN, infinity) are null, and what is no character (of a file's name
    that is no UTF-8) is U+FFFD. indent: spaces a level; None is all in one line."""
    return json.dumps(_plain(values), allow_nan=False, default=str, indent=indent)


def readable(text: str) -> str:
    """The text, with U+FFFD for what is no character."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return readable(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {readable(str(key)): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value
