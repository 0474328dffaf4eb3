"""featherwire-train split: the steps that make a bundle out of a network cut in two."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.cli import stop_on_error
from training.cli.steps import JsonOption, print_values, progress_bar

if TYPE_CHECKING:
    from training.split.recipe import SplitRecipe
    from training.split.steps import SplitFiles

RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", help="Recipe file. Default: the detect bundle's.")
]
RunOption = Annotated[
    Path, typer.Option("--run", help="Folder of this run's results; its cache is by `photos`.")
]
MinutesOption = Annotated[
    float | None, typer.Option(help="The schedule ends after so long, if not by its steps.")
]
DEFAULT_RUN = Path("runs/detect")
_Step = Callable[["SplitRecipe", "SplitFiles", Callable[..., None]], dict[str, Any]]


def register(app: typer.Typer) -> None:
    """Add the group of commands to ``app``."""
    group = typer.Typer(no_args_is_help=True)
    for name, command in (
        ("views", views), ("fit", fit), ("palette", palette), ("tail", tail),
        ("tables", tables), ("export", export), ("evaluate", evaluate),
    ):  # fmt: skip
        group.command(name)(command)
    app.add_typer(
        group,
        name="split",
        help="Cut a frozen network in two: views, fit, palette, tail, tables, export, evaluate.",
    )


def views(
    recipe: RecipeOption = None, run: RunOption = DEFAULT_RUN, as_json: JsonOption = False
) -> None:
    """Draw augmented views of the training photos, and run the whole network on them once."""
    from training.split import steps

    _run(recipe, run, as_json, "views", lambda r, f, bar: steps.write_views(r, f, bar))


def fit(
    recipe: RecipeOption = None,
    run: RunOption = DEFAULT_RUN,
    max_minutes: MinutesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train the bottleneck and the tail end to end, bits against the network's outputs."""
    from training.split import steps

    limit = _seconds(max_minutes)
    _run(recipe, run, as_json, "fit", lambda r, f, bar: steps.fit(r, f, bar, limit))


def palette(
    recipe: RecipeOption = None, run: RunOption = DEFAULT_RUN, as_json: JsonOption = False
) -> None:
    """Fit every chain's trees to the bottleneck's channels."""
    from training.split import steps

    _run(recipe, run, as_json, "palette", lambda r, f, bar: steps.write_palettes(r, f))


def tail(
    recipe: RecipeOption = None,
    run: RunOption = DEFAULT_RUN,
    max_minutes: MinutesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train what the cloud runs behind the real palettes; the edge's half stays."""
    from training.split import steps

    limit = _seconds(max_minutes)
    _run(recipe, run, as_json, "tail", lambda r, f, bar: steps.fit_tail(r, f, bar, limit))


def tables(
    recipe: RecipeOption = None, run: RunOption = DEFAULT_RUN, as_json: JsonOption = False
) -> None:
    """Fit every chain's context networks; say the bytes of a held-out photo at every state."""
    from training.split import steps

    _run(recipe, run, as_json, "tables", lambda r, f, bar: steps.write_contexts(r, f, bar))


def export(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder of the bundle.")],
    recipe: RecipeOption = None,
    run: RunOption = DEFAULT_RUN,
    card: Annotated[
        Path | None, typer.Option(help="A model card (Markdown) to put into the bundle.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write the bundle: both networks as ONNX, palettes, contexts, manifest, notice."""
    from training.split import steps

    def write(r: SplitRecipe, f: SplitFiles, bar: Callable[..., None]) -> dict[str, Any]:
        bundle = steps.export(r, f, output, None if card is None else card.read_text())
        bundle.verify()
        sizes = {name: entry.size_bytes for name, entry in bundle.manifest.files.items()}
        return {"bundle": str(output), "id": bundle.id, "bytes": sizes}

    _run(recipe, run, as_json, "export", write)


def evaluate(
    photos: Annotated[Path, typer.Argument(help="A folder or tar with COCO's annotations.")],
    bundle: Annotated[str, typer.Option(help="Name, folder or zip of the bundle.")] = "detect",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many photos.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Average precision at every state, from real files."""
    import itertools

    from shared.bundle import Bundle
    from training.evaluate.photos import evaluation_photos
    from training.split.evaluate import evaluate_boxes

    with stop_on_error(as_json=as_json):
        opened = Bundle.load(bundle)
        chosen = list(itertools.islice(evaluation_photos([photos], 1 << 16), limit))
        with progress_bar("evaluate") as advance:
            rows = evaluate_boxes(opened, chosen, lambda done, n: advance(done, n, {}))
    figures = [{k: round(v, 5) for k, v in asdict(row).items()} for row in rows]
    print_values({"photos": len(chosen), "states": figures}, as_json)


def _seconds(minutes: float | None) -> float:
    return math.inf if minutes is None else 60 * minutes


def _run(recipe: Path | None, run: Path, as_json: bool, name: str, step: _Step) -> None:
    from training.split.recipe import load_split_recipe
    from training.split.steps import SplitFiles

    with stop_on_error(as_json=as_json), progress_bar(name) as advance:

        def report(done: int, total: int, figures: dict[str, float] | None = None) -> None:
            advance(done, total, figures or {})

        values = step(load_split_recipe(recipe), SplitFiles(run), report)
    print_values(values, as_json)
