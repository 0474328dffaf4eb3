"""featherwire-edge inspect and truncate: what .fwf files hold, and smaller files from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_client.cli.options import BppOption, BytesOption
from shared.cli import (
    RATE_COLUMNS,
    Batch,
    JsonOption,
    rate_record,
    read_file,
    stop_on_error,
    write_atomically,
)
from shared.errors import BudgetError
from shared.limits import DEFAULT_LIMITS
from shared.names import beside, printable, text_of

if TYPE_CHECKING:
    from shared.bitstream import Bitstream


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("inspect")(inspect)
    app.command("truncate")(truncate)


def inspect(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.fwf...", help=".fwf files.")],
    as_json: JsonOption = False,
) -> None:
    """Show format, bundle, size, and every state with the bytes of the file truncated there.

    A part of the next layer is shown with its passes, and of how many when the bundle is known.

    A file whose end is missing shows the states that are complete and is marked as cut. One that
    was made with a bundle that is not packaged is shown, with a warning.
    """
    from codec import open_edge
    from shared.bitstream import Bitstream
    from shared.bundle import packaged_bundle_of
    from shared.errors import BitstreamError

    def one(path: Path) -> dict[str, Any]:
        data = read_file(path, max_bytes=DEFAULT_LIMITS.max_file_bytes)
        damage: BitstreamError | None = None
        try:
            bitstream = Bitstream.from_bytes(data)
        except BitstreamError as error:
            damage = error
            bitstream = Bitstream.from_bytes(data, allow_cut=True)
        pixels = bitstream.width * bitstream.height
        known = packaged_bundle_of(bitstream.bundle_id)
        name = known.manifest.name if known else None
        warning = None if known else _foreign_text(bitstream)
        if warning:
            typer.echo(f"warning: {printable(text_of(path))}: {warning}", err=True)
        states = [
            {"state": state, "bytes": size, "bits_per_pixel": round(8 * size / pixels, 6)}
            for state, size in bitstream.cumulative_bytes().items()
        ]
        partial = None
        if bitstream.partial is not None:
            here = bitstream.partial.state
            partial = {
                "state": here,
                "passes": bitstream.partial.passes,
                "of_passes": open_edge(known).passes(here) if known and name else None,
                "bytes": bitstream.file_bytes,
            }
        return {
            "file": text_of(path),
            "format": bitstream.version,
            "bundle": (known.short_id if known and name else bitstream.bundle_id).hex(),
            "bundle_id": known.id if known and name else None,
            "bundle_name": name,
            "decoders": [one.name for one in known.manifest.pictures] if known and name else [],
            "bundle_text": name or bitstream.bundle_id.hex(),
            "width": bitstream.width,
            "height": bitstream.height,
            "state": bitstream.state,
            "bytes": len(data),
            "complete_bytes": bitstream.file_bytes,
            "bits_per_pixel": round(8 * len(data) / pixels, 6),
            "states": states,
            "partial": partial,
            "reference": _reference(bitstream),
            "cut": damage.to_dict() if damage else None,
            "warning": warning,
            "states_text": "  ".join(f"{row['state']}:{row['bytes']}" for row in states)
            + _reference_text(bitstream)
            + _partial_text(partial)
            + ("  (cut)" if damage else ""),
        }

    Batch(
        as_json=as_json,
        columns={
            "file": "file",
            "format": "format",
            "bundle_text": "bundle",
            "width": "width",
            "height": "height",
            "states_text": "state:bytes up to it",
        },
    ).run(files, one)


def _foreign_text(bitstream: Bitstream) -> str:
    from shared.bundle import packaged_names

    return (
        f"made with bundle {bitstream.bundle_id.hex()}, which is none of those that come with this "
        f"release: {', '.join(packaged_names())}"
    )


def _reference(bitstream: Bitstream) -> dict[str, Any] | None:
    """The frame that a predicted frame is decoded with; None of one that stands alone."""
    if bitstream.reference is None:
        return None
    return {
        "distance": bitstream.reference.distance,
        "checksum": bitstream.reference.checksum.hex(),
    }


def _reference_text(bitstream: Bitstream) -> str:
    """Such as ``  (with the frame 1 before it)``."""
    if bitstream.reference is None:
        return ""
    return f"  (with the frame {bitstream.reference.distance} before it)"


def _partial_text(partial: dict[str, Any] | None) -> str:
    """Such as ``  3:2040 (5 of 12 passes)``."""
    if partial is None:
        return ""
    of_all = f" of {partial['of_passes']}" if partial["of_passes"] else ""
    return f"  {partial['state']}:{partial['bytes']} ({partial['passes']}{of_all} passes)"


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
    to_format: Annotated[
        int | None,
        typer.Option("--format", help="Version of the format: 3 for older releases, or 4."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Make files smaller: the same bytes as encoding at that state, or within that budget.

    --state drops layers and needs no bundle. --bpp and --bytes keep a part of the next layer too,
    for which the bundle of the files is read, but no photo. A file keeps to the chain of states
    that it was encoded with, and to its format unless --format asks for another one, which codes it
    again without loss.
    """
    from codec import EdgeCodec, RateTarget, open_edge
    from shared.bitstream import FORMAT_VERSIONS, Bitstream
    from shared.bundle import Bundle, bundle_for
    from shared.errors import BitstreamError

    with stop_on_error(as_json=as_json):
        target_rate = RateTarget(state, bpp, max_bytes)
        if target_rate == RateTarget() and to_format is None:
            raise BudgetError("no_target", "give --state, --bpp or --bytes, or --format")
        if to_format is not None and to_format not in FORMAT_VERSIONS:
            known = " and ".join(map(str, FORMAT_VERSIONS))
            raise BitstreamError("bad_version", f"no format version {to_format}; there are {known}")
        layers_alone = state is not None and to_format is None
        given = Bundle.load(bundle) if bundle is not None and not layers_alone else None
    codecs: dict[bytes, EdgeCodec[Any, Any]] = {}
    batch = Batch(as_json=as_json, columns={"file": "file", **RATE_COLUMNS})

    def codec_of(bitstream: Bitstream) -> EdgeCodec[Any, Any]:
        short_id = bitstream.bundle_id
        if short_id not in codecs:
            codecs[short_id] = open_edge(bundle_for(short_id, given))
        return codecs[short_id]

    def one(path: Path) -> dict[str, Any]:
        target = batch.claim(beside(output, path.stem, ".fwf"), path)
        source = read_file(path, max_bytes=DEFAULT_LIMITS.max_file_bytes)
        bitstream = Bitstream.from_bytes(source, allow_cut=True)
        if state is not None:
            bitstream = bitstream.truncate(state)
        budget = target_rate.budget_bytes(bitstream.width, bitstream.height)
        if to_format is not None:
            bitstream = codec_of(bitstream).recode(bitstream, to_format)
        if budget is not None:
            bitstream = codec_of(bitstream).shorten(bitstream, target_rate)
        write_atomically(target, bitstream.to_bytes())
        return {"source": text_of(path), "file": text_of(target), **rate_record(bitstream)}

    batch.run(files, one)
