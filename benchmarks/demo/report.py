"""What the demo measured: agreement of the tasks, baselines of equal size, and the page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, select_autoescape
from PIL import Image

from shared.preprocess import load_photo
from shared.results import AnalysisResult, agreement
from training.evaluate.baselines import picture_baselines, smallest_within

PSNR_MEANS = (
    "PSNR compares pixel by pixel. Reconstructions are trained for how they look to networks at "
    "few bits instead: by PSNR AVIF is ahead everywhere, a finer state may have a little less of "
    "it than a coarser one, and from 0.15 bits per pixel on (state 0 here) AVIF looks better, too. "
    "With one or two objects in a photo an agreement says little: benchmarks/results has that of "
    "many."
)
"""What the figures do not say of themselves."""


@dataclass
class Cell:
    """One photo at one state: what was sent, what came back."""

    state: int
    bytes: int
    bits_per_pixel: float
    picture: str
    annotated: str
    psnr: float
    agreement: dict[str, dict[str, Any]]
    milliseconds: dict[str, float]
    baselines: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Row:
    """One photo: the original with the reference results, and a cell per state."""

    photo: str
    width: int
    height: int
    original: str
    original_annotated: str
    reference: str
    cells: list[Cell] = field(default_factory=list)


def agreements(reference: AnalysisResult, sent: AnalysisResult) -> dict[str, dict[str, Any]]:
    """How far each task's result on the reconstruction agrees with that on the original."""
    return {
        name: agreement(result, sent.tasks[name]).model_dump(mode="json")
        for name, result in reference.tasks.items()
        if name in sent.tasks
    }


def agreement_text(value: dict[str, Any] | None) -> str:
    """F1 with two digits, and of how many how many were found again where that is not all; ``none``
    where there was nothing to find and nothing was found."""
    if value is None:
        return "-"
    if value["reference_count"] == value["candidate_count"] == 0:
        return "none"
    there, found, both = (value[key] for key in ("reference_count", "candidate_count", "matched"))
    counts = "" if there == found == both else f" ({both} of {there}"
    more = f", {found - both} more)" if found > both else ")"
    return f"{value['f1']:.2f}{counts}{more if counts else ''}"


def psnr(original: Path, decoded: Path) -> float:
    """Peak signal-to-noise ratio of two pictures in dB."""
    first = load_photo(original).astype(np.float64)
    error = float(np.square(first - load_photo(decoded)).mean())
    return 99.0 if error == 0 else 10 * float(np.log10(255**2 / error))


def write_baselines(original: Path, budget: int, folder: Path, stem: str) -> list[dict[str, Any]]:
    """The photo by each baseline codec at its best quality within ``budget`` bytes.

    A baseline that cannot make the photo so small says so with the size of its smallest file.
    """
    pixels = load_photo(original)
    found = []
    for baseline in picture_baselines():
        best = smallest_within(baseline, pixels, budget)
        if best is None:
            smallest, _ = baseline.code(pixels, 0)
            found.append({"codec": baseline.name, "picture": None, "bytes": smallest})
            continue
        quality, size, decoded = best
        name = f"{stem}-{baseline.name}.png"
        Image.fromarray(decoded).save(folder / name)
        error = float(np.square(pixels.astype(np.float64) - decoded).mean())
        found.append(
            {
                "codec": baseline.name,
                "quality": quality,
                "bytes": size,
                "picture": name,
                "psnr": round(10 * float(np.log10(255**2 / max(error, 1e-9))), 2),
            }
        )
    return found


def write_report(rows: Sequence[Row], path: Path) -> list[dict[str, Any]]:
    """build/demo/report.json: a flat list of photo, state, bytes, bits per pixel, agreement."""
    records = [
        {
            "photo": row.photo,
            "state": cell.state,
            "bytes": cell.bytes,
            "bits_per_pixel": cell.bits_per_pixel,
            "psnr": cell.psnr,
            "agreement": cell.agreement,
            "milliseconds": cell.milliseconds,
            "equal_size": [{k: v for k, v in r.items() if k != "picture"} for r in cell.baselines],
        }
        for row in rows
        for cell in row.cells
    ]
    path.write_text(json.dumps(records, indent=1) + "\n")
    return records


def write_page(
    rows: Sequence[Row], bundle: str, path: Path, streams: Sequence[dict[str, Any]] = ()
) -> None:
    """The page that lays everything side by side. streams: of ``stream_report.page_section``."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(default_for_string=True, default=True),
    )
    environment.filters["agreement"] = agreement_text
    text = environment.get_template("page.html.j2").render(
        rows=rows, bundle=bundle, psnr_means=PSNR_MEANS, streams=streams
    )
    path.write_text(text)
