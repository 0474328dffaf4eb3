"""featherwire-train evaluate: rate and distortion beside the rivals', on photos of your choice."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from shared.cli import stop_on_error
from training.cli.steps import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("evaluate")(evaluate)


def evaluate(
    photos: Annotated[
        list[Path], typer.Argument(help="Photos, folders or tars, never trained on.")
    ],
    bundle: Annotated[str | None, typer.Option(help="Bundle folder, zip or name.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder for curves.json and table.md.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many photos.")] = None,
    side: Annotated[int, typer.Option(min=64, help="Reduce photos to this long side.")] = 512,
    rivals: Annotated[bool, typer.Option(help="Measure JPEG, WebP and AVIF too.")] = True,
    neural: Annotated[
        str | None,
        typer.Option(help="A CompressAI architecture too (mbt2018-mean ...); downloads weights."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every state of a bundle, and rivals at several qualities: whole files, PSNR,
    MS-SSIM, and the LPIPS-like distance (when its weights have been fetched)."""
    from itertools import islice

    from cloud_server.models import ModelStore
    from shared.bundle import Bundle
    from shared.errors import ModelError
    from training.evaluate.curves import BundleUnderTest, averages, markdown, measure
    from training.evaluate.metrics import Metrics
    from training.evaluate.rivals import rivals as all_rivals
    from training.steps.photos import evaluation_photos

    with stop_on_error(as_json=as_json):
        store = ModelStore()
        try:
            metrics = Metrics(store.path("squeezenet-1.1"), store.path("lpips-squeeze"))
        except ModelError as error:
            typer.echo(f"note: no LPIPS-like distance: {error.message}", err=True)
            metrics = Metrics()
        others = all_rivals() if rivals else []
        if neural is not None:
            from training.evaluate.neural import neural_rivals

            others += neural_rivals(neural)
        points = measure(
            islice(evaluation_photos(photos, side), limit),
            BundleUnderTest(Bundle.load(bundle)),
            others,
            metrics,
            lambda name: typer.echo(name, err=True),
        )
    if not points:
        typer.echo("error: no readable photo [no_photos]", err=True)
        raise typer.Exit(1)
    rows = averages(points)
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
        (output / "curves.json").write_text(json.dumps({"points": points, "averages": rows}))
        (output / "table.md").write_text(markdown(rows))
    if as_json:
        json.dump({"averages": rows, "points": points}, sys.stdout)
        sys.stdout.write("\n")
    else:
        typer.echo(markdown(rows), nl=False)
