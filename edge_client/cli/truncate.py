"""featherwire-edge truncate: smaller .fwf files from .fwf files, without the photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edge_client.cli.encode import BppOption, BytesOption, JsonOption
from shared.cli import (
    RATE_COLUMNS,
    Batch,
    rate_record,
    read_file,
    stop_on_error,
    write_atomically,
)
from shared.errors import BudgetError
from shared.limits import DEFAULT_LIMITS


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("truncate")(truncate)


def truncate(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.fwf...", help=".fwf files.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")],
    state: Annotated[
        int | None, typer.Option("--state", min=0, help="The state to keep, 0 finest.")
    ] = None,
    bpp: BppOption = None,
    max_bytes: BytesOption = None,
    bundle: Annotated[
        str | None,
        typer.Option("--bundle", help="Bundle folder, zip or name. Default: the file's own."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make files smaller: the same bytes as encoding at that state, or within that budget.

    --state drops layers and needs no bundle. --bpp and --bytes keep a part of the next layer too,
    for which the bundle of the files is read, but no photo. A file keeps to the chain of states
    that it was encoded with.
    """
    from codec import EdgeCodec, RateTarget, open_edge
    from shared.bitstream import Bitstream
    from shared.bundle import Bundle, bundle_for

    with stop_on_error(as_json=as_json):
        target_rate = RateTarget(state, bpp, max_bytes)
        if target_rate == RateTarget():
            raise BudgetError("no_target", "give --state, --bpp or --bytes")
        given = Bundle.load(bundle) if bundle is not None and state is None else None
    codecs: dict[bytes, EdgeCodec[Any, Any]] = {}
    batch = Batch(as_json=as_json, columns={"file": "file", **RATE_COLUMNS})

    def one(path: Path) -> dict[str, Any]:
        target = batch.claim(output / f"{path.stem}.fwf", path)
        source = read_file(path, max_bytes=DEFAULT_LIMITS.max_file_bytes)
        bitstream = Bitstream.from_bytes(source, allow_cut=True)
        if state is not None:
            bitstream = bitstream.truncate(state)
        budget = target_rate.budget_bytes(bitstream.width, bitstream.height)
        if budget is not None:
            short_id = bitstream.bundle_id
            if short_id not in codecs:
                codecs[short_id] = open_edge(bundle_for(short_id, given))
            bitstream = codecs[short_id].shorten(bitstream, target_rate)
        write_atomically(target, bitstream.to_bytes())
        return {"source": str(path), "file": str(target), **rate_record(bitstream)}

    batch.run(files, one)
