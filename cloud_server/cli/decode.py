"""featherwire-cloud decode: .fwf files to pictures."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated, Any

import typer

from cloud_server.cli.options import (
    BundleOption,
    DecoderOption,
    DeviceOption,
    SeedOption,
    StateOption,
)
from shared.cli import (
    RATE_COLUMNS,
    Batch,
    JsonOption,
    rate_record,
    read_file,
    stop_on_error,
    write_atomically,
)


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("decode")(decode)


def decode(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.fwf...", help=".fwf files.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the .png files.")],
    state: StateOption = None,
    decoder: DecoderOption = None,
    seed: SeedOption = 0,
    bundle: BundleOption = None,
    device: DeviceOption = "cpu",
    as_json: JsonOption = False,
) -> None:
    """Reconstruct pictures: FILE.fwf becomes DIR/FILE.png.

    A file whose end is missing is decoded at the finest state that is complete, with a warning;
    any other damage is an error, and no picture is written.
    """
    from cloud_server.engine.files import Decoders, parse, png_bytes
    from codec import Rendering

    with stop_on_error(as_json=as_json):
        decoders = Decoders(bundle, device=device)
    batch = Batch(
        as_json=as_json,
        columns={
            "file": "file",
            "width": "width",
            "height": "height",
            **RATE_COLUMNS,
            "picture": "picture",
        },
    )

    how = Rendering(decoder, seed)

    def one(path: Path) -> dict[str, Any]:
        target = batch.claim(output / f"{path.stem}.png", path)
        started = time.perf_counter()
        bitstream, warning = parse(read_file(path), state)
        picture = decoders.of(bitstream).picture(bitstream, how)
        elapsed = 1000 * (time.perf_counter() - started)
        if warning:
            typer.echo(f"warning: {path}: {warning}", err=True)
        write_atomically(target, png_bytes(picture))
        return {
            "file": str(path),
            "picture": str(target),
            "width": bitstream.width,
            "height": bitstream.height,
            **rate_record(bitstream),
            "milliseconds": round(elapsed, 2),
            "warning": warning,
        }

    batch.run(files, one)
