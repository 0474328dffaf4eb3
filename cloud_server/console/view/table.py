"""Tables as the browser gets them: rows of cells, in JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

Tone = Literal["", "good", "warn", "bad", "muted"]


def column(label: str, *, number: bool = False, wide: bool = False) -> dict[str, Any]:
    """number: right-aligned, in figures of one width. wide: takes what room is left."""
    return {"label": label, "number": number, "wide": wide}


def cell(
    text: str, *, tone: Tone = "", href: str = "", title: str = "", pick: bool = False
) -> dict[str, Any]:
    """href: the text is a link. pick: it is a button that picks its row."""
    return {"text": text, "tone": tone, "href": href, "title": title, "pick": pick}


def row(key: str, cells: Sequence[dict[str, Any]], *, picked: bool = False) -> dict[str, Any]:
    """key: what tells the row from others, and what is picked."""
    return {"key": key, "cells": list(cells), "picked": picked}
