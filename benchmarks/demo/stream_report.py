"""The part of the page, and of the terminal's words, that is about streams."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from math import log10
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.demo.footage import FPS, MOVING
from benchmarks.demo.report import agreement_text
from benchmarks.demo.stream import RIVAL, Side, StreamRow, document

_WIDTH, _HEIGHT, _LEFT, _BASE = 720, 150, 52, 10
"""Of a chart, in its own units; where its bars begin; bytes at its lower edge."""


@dataclass(frozen=True)
class Bar:
    """A frame: left edge, upper edge, width and height."""

    x: float
    y: float
    width: float
    height: float
    key: bool
    label: str


@dataclass(frozen=True)
class Chart:
    """Bytes a frame on a logarithmic axis. line: the rival's, as points of an SVG polyline.

    marks: heights and words of the axis. still_x: where the scene begins to stand still, None where
    it never does.
    """

    width: int
    height: int
    left: int
    bars: list[Bar]
    line: str
    marks: list[tuple[float, str]]
    still_x: float | None


def chart(ours: Side, rival: Side | None, still_from: int) -> Chart:
    """The chart of a stream: of every frame a bar, and the rival's bytes as a line."""
    most = max(*ours.sizes, *(rival.sizes if rival else ()), 10 * _BASE)
    step = (_WIDTH - _LEFT) / len(ours.sizes)

    def y_of(size: float) -> float:
        share = log10(max(size, _BASE) / _BASE) / log10(most / _BASE)
        return round(_HEIGHT * (1 - share), 1)

    bars = [
        Bar(
            round(_LEFT + number * step, 1),
            y_of(size),
            round(0.8 * step, 1),
            round(_HEIGHT - y_of(size), 1),
            key,
            f"frame {number}: {size} bytes, {'key' if key else 'predicted'} frame",
        )
        for number, (size, key) in enumerate(zip(ours.sizes, ours.keys, strict=True))
    ]
    line = " ".join(
        f"{_LEFT + (number + 0.4) * step:.1f},{y_of(size)}"
        for number, size in enumerate(rival.sizes if rival else ())
    )
    decades = range(int(log10(_BASE)), int(log10(most)) + 1)
    marks = [(y_of(10**power), f"{10**power:,} B") for power in decades]
    still_x = _LEFT + still_from * step if 0 < still_from < len(ours.sizes) else None
    return Chart(_WIDTH, _HEIGHT, _LEFT, bars, line, marks, still_x)


def found_text(one: Side) -> str:
    """F1, and of how many objects how many were found again, as the page says it of photos."""
    return agreement_text(
        {
            "reference_count": one.there,
            "candidate_count": one.found,
            "matched": one.both,
            "f1": one.f1,
        }
    )


def verdict(row: StreamRow) -> str:
    """A sentence about the two codecs, whichever way it comes out."""
    if row.rival is None:
        return f"{row.no_rival}."
    name, difference = f"{RIVAL} at CRF {row.crf}", row.ours.f1 - row.rival.f1
    more = row.rival.total / max(row.ours.total, 1)
    size = f"{more:.2f} times our bytes" if more >= 1.005 else "the same bytes"
    if abs(difference) < 0.005:
        text = f"as much is found as on the frames of {name}, which takes {size}"
    else:
        word = "more" if difference > 0 else "less"
        text = f"{word} is found than on the frames of {name}, which takes {size}"
    text = f"{text}: F1 {row.ours.f1:.2f} to {row.rival.f1:.2f}"
    if row.ours.psnr is not None and row.rival.psnr is not None:
        nearer = "nearer" if row.rival.psnr > row.ours.psnr else "no nearer"
        text += f"; pixel by pixel {RIVAL}'s pictures are {nearer} to the original"
        text += f" ({row.rival.psnr:.1f} dB to our {row.ours.psnr:.1f} dB)"
    return text[0].upper() + text[1:] + "."


def page_section(rows: Sequence[StreamRow], still_from: int = MOVING) -> list[dict[str, Any]]:
    """What the page's template needs of every stream, in order."""
    return [
        {
            "row": row,
            "chart": chart(row.ours, row.rival, still_from),
            "verdict": verdict(row),
            "sides": [
                (name, one, _byte_texts(one, still_from), found_text(one))
                for name, one in _sides(row)
            ],
            "seconds": len(row.ours.sizes) / FPS,
            "fps": FPS,
        }
        for row in rows
    ]


def stream_table(rows: Sequence[StreamRow], still_from: int = MOVING) -> Table:
    """A line a stream and a line an x264, for the terminal."""
    table = Table(
        title=f"streams of {len(rows[0].ours.sizes)} frames: two people walk, then stand still "
        f"(bytes; {RIVAL} medium, zerolatency, at no fewer bytes)",
    )
    headings = ("stream", "key frame", "moving", "still", "kbit/s", "detection", "PSNR dB", "SSIM")
    for heading in headings:
        table.add_column(heading, justify="left" if heading == "stream" else "right")
    for row in rows:
        for name, one in _sides(row):
            table.add_row(
                name, *_byte_texts(one, still_from), found_text(one),
                "-" if one.psnr is None else f"{one.psnr:.1f}",
                "-" if one.ssim is None else f"{one.ssim:.3f}",
            )  # fmt: skip
        if row.no_rival:
            table.caption = row.no_rival
    return table


def write_stream_report(
    rows: Sequence[StreamRow], path: Path, still_from: int = MOVING
) -> list[dict[str, Any]]:
    """build/demo/stream.json: bytes of every frame, what was found, what pictures are worth."""
    records = [document(row, still_from) for row in rows]
    path.write_text(json.dumps(records, indent=1) + "\n")
    return records


def _sides(row: StreamRow) -> list[tuple[str, Side]]:
    ours = (f"{row.bundle}, state {row.state}", row.ours)
    return [ours, *([] if row.rival is None else [(f"{RIVAL}, CRF {row.crf}", row.rival)])]


def _byte_texts(one: Side, still_from: int) -> tuple[str, str, str, str]:
    """The key frame that all begins with, a predicted one in motion and at rest, kbit/s."""
    moving, still = (
        "-" if mean is None else f"{mean:.0f}"
        for mean in (one.mean(still_from=still_from, still=at_rest) for at_rest in (False, True))
    )
    rate = 8 * one.total * FPS / len(one.sizes) / 1000
    return str(one.sizes[0]), moving, still, f"{rate:.1f}"
