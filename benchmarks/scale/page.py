"""The results as a page, and as numbers beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.scale.measure import (
    FRAMES_IN_FLIGHT,
    IN_FLIGHT,
    PAUSE_S,
    PAYLOAD_BYTES,
    PHOTO,
    SESSIONS,
)

_COLUMNS = {
    "engine": "engine",
    "workers": "workers",
    "frames_per_second": "frames/s",
    "one_at_a_time_ms": "hand-over, one at a time, ms",
    "together_ms": "hand-over, 32 together, ms",
    "cpu_ms": "of it processor time here, ms",
}


def page(document: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"A task of {PAUSE_S * 1e3:g} ms that uses no processor, one a worker; "
        f"{PHOTO[1]}x{PHOTO[0]} photos, {IN_FLIGHT} in flight a worker; {document['cores']} cores, "
        "shared with other work. The hand-over is that of frames of which nothing is asked: what "
        "the engine itself costs.",
        "",
        "| " + " | ".join(_COLUMNS.values()) + " |",
        "| --- |" + " ---: |" * (len(_COLUMNS) - 1),
    ]
    lines += [
        "| " + " | ".join(str(row[name]) for name in _COLUMNS) + " |" for row in document["engines"]
    ]
    if document["log"]:
        lines += [
            "",
            f"Frames of {PAYLOAD_BYTES} bytes, each accepted and completed in one PostgreSQL log; "
            f"{SESSIONS} sessions a server with {FRAMES_IN_FLIGHT} frames in flight; servers and "
            "database on the same cores.",
            "",
            "| servers | taking turns | frames/s, all together |",
            "| ---: | --- | ---: |",
        ]
        lines += [
            f"| {row['servers']} | {'yes' if row['shared'] else 'no'} | "
            f"{row['frames_per_second']:g} |"
            for row in document["log"]
        ]
    return "\n".join(lines) + "\n"


def write(document: dict[str, Any], folder: Path) -> str:
    """Write scale.md and scale.json; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    text = page(document)
    (folder / "scale.md").write_text(text)
    (folder / "scale.json").write_text(json.dumps(document, indent=1) + "\n")
    return text
