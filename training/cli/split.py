"""featherwire-train split: the steps that make a bundle out of a network cut in two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from codec.settings import FeatureSettings
from shared.cli import stop_on_error
from training.cli.steps import JsonOption, print_values, progress_bar

if TYPE_CHECKING:
    from codec.lattice_palette.train.recipe import SplitRecipe
    from codec.lattice_palette.train.steps import SplitFiles
    from shared.bundle import Bundle
    from training.evaluate.photos import EvaluationPhoto
    from training.evaluate.split_boxes import StateFigures
    from training.evaluate.split_classes import ClassFigures

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
        ("plan", plan), ("views", views), ("fit", fit), ("palette", palette), ("tail", tail),
        ("tables", tables), ("export", export), ("evaluate", evaluate),
    ):  # fmt: skip
        group.command(name)(command)
    app.add_typer(
        group,
        name="split",
        help="Cut a frozen network in two: plan, views, fit, ... export, evaluate.",
    )


def plan(
    network: Annotated[str, typer.Argument(help="Weights of a YOLO detector, such as yolo11n.pt.")],
    output: Annotated[Path, typer.Option("-o", "--output", help="The recipe file to write.")],
    at: Annotated[
        str, typer.Option(help="The layer to cut behind; auto takes the fewest values.")
    ] = "auto",
    side: Annotated[int, typer.Option(min=32, max=2048, help="The network's input, pixels.")] = 640,
    edge_share: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, help="The edge's part of the multiply-adds, for auto."),
    ] = 1 / 3,
    name: Annotated[str | None, typer.Option(help="The bundle's. Default: the network's.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Find the cheapest place to cut a network; write a recipe for the steps after that."""
    import re

    import yaml

    from codec.lattice_palette.train.networks.yolo import SplitYolo
    from codec.lattice_palette.train.recipe import CutPart, plan_recipe
    from shared.cli import write_atomically
    from shared.errors import RecipeError
    from shared.weights import ModelStore

    with stop_on_error(as_json=as_json):
        if at != "auto" and not at.isdecimal():
            raise RecipeError("bad_recipe", f"--at takes auto or a layer's number, not {at!r}")
        layer = None if at == "auto" else int(at)
        opened = SplitYolo(ModelStore(), network, side=side, at=layer, most_on_edge=edge_share)
        cut = CutPart(at=opened.cut.after, side=side, edge_share=max(edge_share, 1e-6))
        bundle = name or re.sub("[^a-z0-9-]+", "-", opened.info.name.lower()).strip("-")
        recipe = plan_recipe(opened.info, cut, network, bundle)
        values = recipe.model_dump(mode="json", exclude_unset=True)
        text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None)
        write_atomically(output, text.encode())
    rows = [asdict(row) | {"chosen": row == opened.cut} for row in opened.cuts]
    print_values({"recipe": str(output), "cut": asdict(opened.cut), "cuts": rows}, as_json)


def views(
    recipe: RecipeOption = None,
    run: RunOption = DEFAULT_RUN,
    photos: Annotated[
        Path | None,
        typer.Option(help="A folder or tar to train on. Default: what the photos step read."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Draw augmented views of the training photos, and run the whole network on them once."""
    from codec.lattice_palette.train import steps

    def step(r: SplitRecipe, f: SplitFiles, bar: Callable[..., None]) -> dict[str, Any]:
        if photos is not None:
            steps.read_photos(photos, f)
        return steps.write_views(r, f, bar)

    _run(recipe, run, as_json, "views", step)


def fit(
    recipe: RecipeOption = None,
    run: RunOption = DEFAULT_RUN,
    max_minutes: MinutesOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from what an earlier fit left in this run.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Train the bottleneck and the tail end to end, bits against the network's outputs."""
    from codec.lattice_palette.train import steps

    def step(r: SplitRecipe, f: SplitFiles, bar: Callable[..., None]) -> dict[str, Any]:
        return steps.fit(r, f, bar, _seconds(max_minutes), resume=resume)

    _run(recipe, run, as_json, "fit", step)


def palette(
    recipe: RecipeOption = None, run: RunOption = DEFAULT_RUN, as_json: JsonOption = False
) -> None:
    """Fit every chain's trees to the bottleneck's channels."""
    from codec.lattice_palette.train import steps

    _run(recipe, run, as_json, "palette", lambda r, f, bar: steps.write_palettes(r, f))


def tail(
    recipe: RecipeOption = None,
    run: RunOption = DEFAULT_RUN,
    max_minutes: MinutesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train what the cloud runs behind the real palettes; the edge's half stays."""
    from codec.lattice_palette.train import steps

    limit = _seconds(max_minutes)
    _run(recipe, run, as_json, "tail", lambda r, f, bar: steps.fit_tail(r, f, bar, limit))


def tables(
    recipe: RecipeOption = None, run: RunOption = DEFAULT_RUN, as_json: JsonOption = False
) -> None:
    """Fit every chain's context networks; say the bytes of a held-out photo at every state."""
    from codec.lattice_palette.train import steps

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
    from codec.lattice_palette.train import steps

    def write(r: SplitRecipe, f: SplitFiles, bar: Callable[..., None]) -> dict[str, Any]:
        bundle = steps.export(r, f, output, None if card is None else card.read_text())
        bundle.verify()
        sizes = {name: entry.size_bytes for name, entry in bundle.manifest.files.items()}
        return {"bundle": str(output), "id": bundle.id, "bytes": sizes}

    _run(recipe, run, as_json, "export", write)


def evaluate(
    photos: Annotated[Path, typer.Argument(help="A folder or tar, for AP with annotations.")],
    bundle: Annotated[str, typer.Option(help="Name, folder or zip of the bundle.")] = "detect",
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many photos.")] = None,
    rivals: Annotated[bool, typer.Option(help="Of classes: measure AVIF files too.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Every state from real files: boxes' average precision, or how often classes are the same."""
    import itertools

    from shared.bundle import Bundle
    from training.evaluate.photos import evaluation_photos

    with stop_on_error(as_json=as_json):
        opened = Bundle.load(bundle)
        chosen = list(itertools.islice(evaluation_photos([photos], 1 << 16), limit))
        with progress_bar("evaluate") as advance:

            def report(done: int, total: int) -> None:
                advance(done, total, {})

            figures = _measured(opened, chosen, rivals, report)
    print_values({"photos": len(chosen), **figures}, as_json)


def _measured(
    bundle: Bundle,
    photos: list[EvaluationPhoto],
    rivals: bool,
    report: Callable[[int, int], None],
) -> dict[str, Any]:
    from codec.lattice_palette.train.networks.opening import named_network
    from shared.errors import RecipeError
    from training.evaluate.split_boxes import evaluate_boxes
    from training.evaluate.split_classes import best_rival, evaluate_classes

    for spec in FeatureSettings.of(bundle).tails or ():
        if spec.output == "boxes":
            return {"states": _rounded(evaluate_boxes(bundle, photos, report))}
        if spec.output == "classes":
            network = named_network(spec.model.name)
            states, others = evaluate_classes(
                bundle, network, photos, rivals=rivals, progress=report
            )
            beside = [best_rival(others, row.bytes) for row in states]
            return {
                "states": _rounded(states),
                "best_rival_within": _rounded([row for row in beside if row is not None]),
                "rivals": _rounded(others),
            }
    name = bundle.manifest.name
    raise RecipeError("nothing_to_evaluate", f"bundle {name} has no tail of boxes or classes")


def _rounded(rows: Sequence[StateFigures | ClassFigures]) -> list[dict[str, Any]]:
    return [
        {key: round(v, 5) if isinstance(v, float) else v for key, v in asdict(row).items()}
        for row in rows
    ]


def _seconds(minutes: float | None) -> float:
    return math.inf if minutes is None else 60 * minutes


def _run(recipe: Path | None, run: Path, as_json: bool, name: str, step: _Step) -> None:
    from codec.lattice_palette.train.recipe import load_split_recipe
    from codec.lattice_palette.train.steps import SplitFiles

    with stop_on_error(as_json=as_json), progress_bar(name) as advance:

        def report(done: int, total: int, figures: dict[str, float] | None = None) -> None:
            advance(done, total, figures or {})

        values = step(load_split_recipe(recipe), SplitFiles(run), report)
    print_values(values, as_json)
