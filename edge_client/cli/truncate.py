"""featherwire-edge truncate: a coarser state of a .fwf file, without encoding again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge_client.cli.encode import JsonOption
from shared.cli import Batch, read_file, write_atomically
from shared.limits import DEFAULT_LIMITS


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("truncate")(truncate)


def truncate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.fwf...", help=".fwf files.")],
    state: Annotated[int, typer.Option("--state", min=0, help="The state to keep, 0 finest.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")],
    as_json: JsonOption = False,
) -> None:
    """Drop the layers finer than a state: the same bytes as encoding at that state."""
    from shared.bitstream import Bitstream

    batch = Batch(
        as_json=as_json,
        columns={
            "file": "file",
            "state": "state",
            "bytes": "bytes",
            "bits_per_pixel": "bits/pixel",
        },
    )

    def one(path: Path) -> dict[str, Any]:
        target = batch.claim(output / f"{path.stem}.fwf", path)
        source = read_file(path, max_bytes=DEFAULT_LIMITS.max_file_bytes)
        bitstream = Bitstream.from_bytes(source, allow_cut=True).truncate(state)
        data = bitstream.to_bytes()
        write_atomically(target, data)
        return {
            "source": str(path),
            "file": str(target),
            "state": bitstream.state,
            "bytes": len(data),
            "bits_per_pixel": round(bitstream.bits_per_pixel, 6),
        }

    batch.run(files, one)
