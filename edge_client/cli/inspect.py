"""featherwire-edge inspect: what .fwf files hold, without decoding them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_client.cli.encode import JsonOption
from shared.cli import Batch, read_file
from shared.limits import DEFAULT_LIMITS

if TYPE_CHECKING:
    from shared.bitstream import Bitstream


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("inspect")(inspect)


def inspect(
    files: Annotated[list[Path], typer.Argument(metavar="FILE.fwf...", help=".fwf files.")],
    as_json: JsonOption = False,
) -> None:
    """Show bundle, size, and every state present with the bytes of the file truncated there.

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
            typer.echo(f"warning: {path}: {warning}", err=True)
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
            "file": str(path),
            "bundle": bitstream.bundle_id.hex(),
            "bundle_id": known.id if known and name else None,
            "bundle_name": name,
            "bundle_text": name or bitstream.bundle_id.hex(),
            "width": bitstream.width,
            "height": bitstream.height,
            "state": bitstream.state,
            "bytes": len(data),
            "complete_bytes": bitstream.file_bytes,
            "bits_per_pixel": round(8 * len(data) / pixels, 6),
            "states": states,
            "partial": partial,
            "cut": damage.to_dict() if damage else None,
            "warning": warning,
            "states_text": "  ".join(f"{row['state']}:{row['bytes']}" for row in states)
            + _partial_text(partial)
            + ("  (cut)" if damage else ""),
        }

    Batch(
        as_json=as_json,
        columns={
            "file": "file",
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


def _partial_text(partial: dict[str, Any] | None) -> str:
    """Such as ``  3:2040 (5 of 12 passes)``."""
    if partial is None:
        return ""
    of_all = f" of {partial['of_passes']}" if partial["of_passes"] else ""
    return f"  {partial['state']}:{partial['bytes']} ({partial['passes']}{of_all} passes)"
