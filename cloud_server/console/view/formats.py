"""How the console writes numbers and times, and tables as the browser gets them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal

from google.protobuf.timestamp_pb2 import Timestamp

Tone = Literal["", "good", "warn", "bad", "muted"]


def column(label: str, *, number: bool = False, wide: bool = False) -> dict[str, Any]:
    """number: right-aligned, in figures of one width. wide: takes what room is left."""
    return {"label": label, "number": number, "wide": wide}


def cell(
    text: str,
    *,
    tone: Tone = "",
    href: str = "",
    title: str = "",
    pick: bool = False,
    image: str = "",
    act: str = "",
) -> dict[str, Any]:
    """href: the text is a link. pick: it is a button that picks its row. image: path of a small
    picture before the text. act: name of a button behind it, which does something to the row."""
    found = {"text": text, "tone": tone, "href": href, "title": title, "pick": pick}
    return {**found, "image": image, "act": act}


def row(
    key: str,
    cells: Sequence[dict[str, Any]],
    *,
    picked: bool = False,
    ticked: bool | None = None,
) -> dict[str, Any]:
    """key: unique among rows; it is what is picked, ticked or acted on. ticked: whether the row's
    box is; None: it has none."""
    return {"key": key, "cells": list(cells), "picked": picked, "ticked": ticked}


NONE = "–"


def size(count: float) -> str:
    """Bytes, to three digits: 512 B, 1.25 kB, 3.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            digits = 0 if unit == "B" or count >= 100 else 1 if count >= 10 else 2
            return f"{count:.{digits}f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def bits_per_pixel(value: float) -> str:
    """Three decimals; nothing for 0, which is "not known"."""
    return f"{value:.3f}" if value else NONE


def rate(value: float) -> str:
    """Of frames a second."""
    return f"{value:.1f}" if value else NONE


def share(value: float) -> str:
    """A change or a share in whole per cent, with its sign where it is a change."""
    return f"{100 * value:.0f} %"


def instant(stamp: Timestamp) -> str:
    """UTC, to the second."""
    return stamp.ToDatetime(UTC).strftime("%Y-%m-%d %H:%M:%S") if stamp.seconds else NONE


def ago(stamp: Timestamp, now: datetime | None = None) -> str:
    """How long since: 12 s, 4 min, 3 h, 2 d."""
    if not stamp.seconds:
        return NONE
    seconds = max(0.0, ((now or datetime.now(UTC)) - stamp.ToDatetime(UTC)).total_seconds())
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
