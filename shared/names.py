"""Names of files as text, whatever bytes they have, and names for files that are short enough.

A name is any bytes but two on most systems: Latin-1 of an old camera, line breaks, what turns a
terminal's colours. Databases, JSON and messages take valid Unicode alone, and terminals act on
control characters.
"""

from __future__ import annotations

import hashlib
import os
import unicodedata
from pathlib import Path

MAX_NAME_BYTES = 255
"""Of one name in a folder, on all usual file systems."""

_CONTROLS = {"Cc", "Cf", "Zl", "Zp"}
"""Unicode's categories of what is no picture: controls, marks that turn the writing direction, and
breaks of lines and paragraphs."""


def text_of(path: str | os.PathLike[str]) -> str:
    r"""A path as valid Unicode: bytes that are not UTF-8 become ``\xe9``."""
    return os.fspath(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def printable(text: str) -> str:
    r"""Text for one line of a terminal or a log: controls become ``\n``, ``\x1b``, ``\u202e``."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _CONTROLS else c
        for c in text.encode("utf-8", "backslashreplace").decode("utf-8")
    )


def beside(folder: Path, stem: str, suffix: str) -> Path:
    """``folder/STEMsuffix``, for a file that is named after another.

    A name that would be too long for a file system loses the end of its stem, for eight digits that
    tell it from others which begin alike.
    """
    whole = os.fsencode(f"{stem}{suffix}")
    if len(whole) <= MAX_NAME_BYTES:
        return folder / f"{stem}{suffix}"
    mark = f"~{hashlib.sha256(os.fsencode(stem)).hexdigest()[:8]}"
    room = MAX_NAME_BYTES - len(os.fsencode(suffix)) - len(mark)
    short = stem
    while len(os.fsencode(short)) > room:
        short = short[:-1]
    return folder / f"{short}{mark}{suffix}"
