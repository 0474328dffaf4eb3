"""Run the demo into build/demo/: pictures, index.html, report.json, stream.json, and tables."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks.demo.footage import footage
from benchmarks.demo.processes import DemoError, command, run_json, server
from benchmarks.demo.report import (
    PSNR_MEANS,
    Cell,
    Row,
    agreement_text,
    agreements,
    psnr,
    write_baselines,
    write_page,
    write_report,
)
from benchmarks.demo.stream import stream_rows
from benchmarks.demo.stream_report import page_section, stream_table, write_stream_report
from benchmarks.photos import write_photos
from cloud_server.engine.files import png_bytes
from cloud_server.tasks.annotate import annotate
from shared.bundle import Bundle
from shared.errors import FeatherwireError
from shared.preprocess import load_photo
from shared.results import AnalysisResult

TASKS = "detection,segmentation,landmarks"
STREAMED = ("detect", "fidelity")
OUTPUT = Path("build/demo")
console = Console(width=None if sys.stdout.isatty() else 110)


def main() -> int:
    """Everything, in order; 0 when all of it worked."""
    shutil.rmtree(OUTPUT, ignore_errors=True)
    try:
        bundle = Bundle.load()
        photos = write_photos(OUTPUT / "photos", console.print)
        console.print(f"{len(photos)} photos; the reference results, on the originals:")
        rows, references = reference_rows(photos)
        states = three_states(bundle)
        console.print(f"sending them at states {', '.join(map(str, states))} to a server:")
        with server(OUTPUT / "server.log") as address:
            for state in states:
                send_at(state, photos, address, rows, references)
            console.print("footage as streams, and x264 at the same bytes:")
            streams = stream_rows(footage(), STREAMED, address, OUTPUT / "stream")
    except (DemoError, FeatherwireError) as error:
        console.print(f"[red]the demo failed:[/red] {error}")
        return 1
    for row in rows:
        for cell in row.cells:
            cell.baselines = baselines_of(row, cell)
    write_report(rows, OUTPUT / "report.json")
    write_stream_report(streams, OUTPUT / "stream.json")
    write_page(rows, bundle.id, OUTPUT / "index.html", page_section(streams))
    print_table(rows)
    console.print(stream_table(streams))
    files = ", ".join(str(OUTPUT / name) for name in ("report.json", "stream.json"))
    console.print(f"pictures side by side: {OUTPUT / 'index.html'}; figures: {files}")
    return 0


def three_states(bundle: Bundle) -> list[int]:
    """The finest state, one in the middle of the chain, and one in its coarser half."""
    coarsest = bundle.manifest.coarsest_state
    return sorted({0, round(coarsest * 0.4), round(coarsest * 0.65)})


def reference_rows(
    photos: Sequence[Path],
) -> tuple[list[Row], dict[str, AnalysisResult]]:
    """The tasks on the originals, by `featherwire-cloud analyze`."""
    folder = OUTPUT / "reference"
    words = ["analyze", *map(str, photos), "--tasks", TASKS, "--annotate", str(folder)]
    document = run_json([command("featherwire-cloud"), *words])
    rows, references = [], {}
    for record in document["results"]:
        stem = Path(record["file"]).stem
        result = analysis_of(record)
        references[stem] = result
        found = ", ".join(f"{len(task.found)} {name}" for name, task in result.tasks.items())
        rows.append(
            Row(
                stem,
                result.width,
                result.height,
                f"photos/{stem}.png",
                f"reference/{stem}.png",
                found,
            )
        )
    return rows, references


def send_at(
    state: int,
    photos: Sequence[Path],
    address: str,
    rows: Sequence[Row],
    references: dict[str, AnalysisResult],
) -> None:
    """One `featherwire-edge send` of all photos; fills in the rows' cells."""
    folder = OUTPUT / f"state-{state}"
    words = ["send", *map(str, photos), "--server", address, "--tasks", TASKS]
    words += ["--picture", "-o", str(folder), "--state", str(state)]
    document = run_json([command("featherwire-edge"), *words])
    by_photo = {Path(record["file"]).stem: record for record in document["results"]}
    for row in rows:
        record = by_photo[row.photo]
        result = analysis_of(record)
        decoded = folder / f"{row.photo}.png"
        drawn = folder / f"{row.photo}-results.png"
        drawn.write_bytes(png_bytes(annotate(load_photo(decoded), result.tasks.values())))
        row.cells.append(
            Cell(
                state,
                result.payload_bytes,
                round(result.bits_per_pixel, 6),
                f"{folder.name}/{decoded.name}",
                f"{folder.name}/{drawn.name}",
                round(psnr(OUTPUT / row.original, decoded), 3),
                agreements(references[row.photo], result),
                result.milliseconds,
            )
        )


def baselines_of(row: Row, cell: Cell) -> list[dict[str, Any]]:
    """JPEG, WebP and AVIF of at most the cell's bytes, with page-relative picture paths."""
    folder = OUTPUT / f"state-{cell.state}"
    found = write_baselines(OUTPUT / row.original, cell.bytes, folder, row.photo)
    for baseline in found:
        if baseline["picture"]:
            baseline["picture"] = f"{folder.name}/{baseline['picture']}"
    return found


def analysis_of(record: dict[str, Any]) -> AnalysisResult:
    """The AnalysisResult in a command's record: `send` nests it, `analyze` spreads it out."""
    values = record.get("analysis", record)
    fields = {key: values[key] for key in AnalysisResult.model_fields if key in values}
    return AnalysisResult.model_validate(fields)


def print_table(rows: Sequence[Row]) -> None:
    """The table of bytes, and of agreement with the same models on the originals."""
    table = Table(
        title="sent and analysed (agreement: F1 with the result on the original, and of how many "
        "objects how many were found again; none: nothing there, nothing found)",
        caption=PSNR_MEANS,
    )
    for heading in ("photo", "state", "bytes", "bits/pixel", "PSNR dB"):
        table.add_column(heading, justify="left" if heading == "photo" else "right")
    tasks = TASKS.split(",")
    for task in tasks:
        table.add_column(task, justify="right")
    for row in rows:
        for cell in row.cells:
            scores = [agreement_text(cell.agreement.get(task)) for task in tasks]
            table.add_row(
                row.photo,
                str(cell.state),
                str(cell.bytes),
                f"{cell.bits_per_pixel:.3f}",
                f"{cell.psnr:.1f}",
                *scores,
            )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
