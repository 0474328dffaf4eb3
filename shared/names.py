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
    name = f"{stem}{suffix}"
    if len(_bytes(name)) > MAX_NAME_BYTES:
        mark = f"~{hashlib.sha256(_bytes(stem)).hexdigest()[:8]}{suffix}"
        while len(_bytes(f"{stem}{mark}")) > MAX_NAME_BYTES:
            stem = stem[:-1]
        name = f"{stem}{mark}"
    # In the locale of this process text may not be what names of files are made of.
    return folder / os.fsdecode(_bytes(name))


def _bytes(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")
