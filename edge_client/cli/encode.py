"""featherwire-edge encode: photos to .fwf files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from edge_client.cli.options import (
    BestEffortOption,
    BppOption,
    BytesOption,
    PsnrOption,
    RegionOption,
    StateOption,
    ThreadsOption,
)
from shared.cli import (
    RATE_COLUMNS,
    Batch,
    JsonOption,
    finite,
    rate_record,
    stop_on_error,
    write_atomically,
)

BundleOption = Annotated[
    str | None,
    typer.Option("--bundle", help="Bundle folder, zip or name. Default: the picture bundle."),
]
LambdaOption = Annotated[
    float | None,
    typer.Option(
        "--lambda",
        min=0,
        parser=finite("the squared error that one bit is worth", minimum=0),
        help="Squared error of a feature vector that one bit is worth; 0: always the nearest "
        "colour. Default: the bundle's.",
    ),
]
PrecisionOption = Annotated[
    Literal["auto", "fp32", "int8"] | None,
    typer.Option(
        help="The network's arithmetic; auto takes what is faster on this machine. "
        "Default: FEATHERWIRE_PRECISION, or auto."
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("encode")(encode)


def encode(
    photos: Annotated[list[Path], typer.Argument(help="Photos of any common format.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the .fwf files.")],
    state: StateOption = None,
    bpp: BppOption = None,
    max_bytes: BytesOption = None,
    psnr_db: PsnrOption = None,
    best_effort: BestEffortOption = False,
    region: RegionOption = None,
    rate_weight: LambdaOption = None,
    bundle: BundleOption = None,
    precision: PrecisionOption = None,
    threads: ThreadsOption = 1,
    as_json: JsonOption = False,
) -> None:
    """Encode photos: PHOTO.jpg becomes DIR/PHOTO.fwf.

    Without a rate every photo is encoded at the bundle's default state, the finest that is worth
    its bits (--state 0: the finest of all); `truncate` makes it smaller later without encoding
    again. With --bpp or --bytes each photo gets the finest layers that fit, and
    then as much of the next one as does. With --psnr it gets the fewest bits with which its
    reconstruction is expected to be that good; a photo for which none suffice is an error.
    """
    from edge_client.encoder import EdgeEncoder
    from shared.bundle import Bundle
    from shared.names import beside, text_of
    from shared.targets import RateTarget, check_regions, parse_region

    with stop_on_error(as_json=as_json):
        target_rate = RateTarget(state, bpp, max_bytes, psnr_db, best_effort)
        encoder = EdgeEncoder(
            Bundle.load(bundle), threads=threads, rate_weight=rate_weight, precision=precision
        )
        encoder.check(target_rate)
        regions = check_regions([*map(parse_region, region or ())], target_rate, rate_weight)
        if regions:
            encoder.check_regions()
    batch = Batch(
        as_json=as_json,
        columns={
            "photo": "photo",
            "width": "width",
            "height": "height",
            **RATE_COLUMNS,
            "file": "file",
        },
    )

    def one(photo: Path) -> dict[str, Any]:
        target = batch.claim(beside(output, photo.stem, ".fwf"), photo)
        bitstream = encoder.encode_at(photo, target_rate, regions)
        write_atomically(target, bitstream.to_bytes())
        return {
            "photo": text_of(photo),
            "file": text_of(target),
            "width": bitstream.width,
            "height": bitstream.height,
            **rate_record(bitstream),
            "bundle": encoder.bundle.short_id.hex(),
            "bundle_id": encoder.bundle.id,
        }

    batch.run(photos, one)
