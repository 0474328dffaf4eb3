"""featherwire-train consistency: what of the received indices reconstructions keep."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from shared.cli import stop_on_error
from training.cli.steps import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("consistency")(consistency)


def consistency(
    photos: Annotated[list[Path], typer.Argument(help="Photos, folders or tars.")],
    bundle: Annotated[str | None, typer.Option(help="Bundle folder, zip or name.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many photos.")] = None,
    side: Annotated[int, typer.Option(min=64, help="Reduce photos to this long side.")] = 512,
    seed: Annotated[int, typer.Option(help="Of the sampler.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Reconstruct at every state, faithfully and vividly, encode again, and compare indices."""
    from itertools import islice

    from codec.markov_palette.train.recipe import load_recipe
    from shared.bundle import Bundle
    from training.evaluate.consistency import ConsistencyCheck
    from training.evaluate.photos import evaluation_photos

    with stop_on_error(as_json=as_json):
        opened = Bundle.load(bundle)
        found = islice(evaluation_photos(photos, side, load_recipe(None)), limit)
        rows = ConsistencyCheck(opened).run(
            (photo.pixels for photo in found), range(1, opened.manifest.coarsest_state + 1), seed
        )
    if not rows:
        typer.echo("error: no readable photo [no_photos]", err=True)
        raise typer.Exit(1)
    if as_json:
        json.dump([asdict(row) for row in rows], sys.stdout)
        sys.stdout.write("\n")
        return
    typer.echo("| state | sampled latents | vivid picture again | faithful picture again |")
    typer.echo("| ---: | ---: | ---: | ---: |")
    for row in rows:
        typer.echo(f"| {row.state} | {row.latents:.4f} | {row.vivid:.3f} | {row.faithful:.3f} |")
