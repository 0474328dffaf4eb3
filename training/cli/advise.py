"""featherwire-train advise: score thresholds and the default state of a bundle, measured."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import typer

from shared.cli import JsonOption, stop_on_error, write_atomically
from training.cli.steps import RecipeOption, print_values


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("advise")(advise)


def advise(
    photos: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Photos, folders or tars to calibrate on: of training, never of evaluation."
        ),
    ] = None,
    bundle: Annotated[str | None, typer.Option(help="Bundle folder, zip or name.")] = None,
    evaluated: Annotated[
        Path | None,
        typer.Option(
            exists=True,
            dir_okay=False,
            help="What `evaluate -o` wrote of this bundle, curves.json or accuracy-TASK.json: name "
            "the default state.",
        ),
    ] = None,
    task_decoder: Annotated[
        str | None,
        typer.Option(
            help="Which of the bundle's decoders makes the pictures that tasks look at; thresholds "
            "are measured on these."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Folder for advice.json. Default: the bundle's own."),
    ] = None,
    recipe: RecipeOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many photos.")] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every so-manieth photo.")] = 1,
    side: Annotated[int, typer.Option(min=64, help="Reduce photos to this long side.")] = 512,
    cache: Annotated[
        Path | None,
        typer.Option(help="Folder of points measured before. Default: ~/.cache/featherwire/bench."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Measure how a bundle is best used, and write that beside its manifest; its id stays.

    With photos: from which score detections are shown at each state, class by class, so that no
    more is found that is not there than on uncompressed photos. With --evaluated: the default
    state, the finest that is worth its bits. With --task-decoder: whose pictures tasks look at,
    where that is not the first decoder. What is not said or measured stays as the bundle has it.
    """
    if not photos and evaluated is None and task_decoder is None:
        raise typer.BadParameter(
            "give photos to calibrate on, --evaluated FILE, --task-decoder NAME, or several of them"
        )

    from shared.bundle import ADVICE_NAME, Bundle
    from training.advice import calibrate, default_state
    from training.evaluate.measure import PointCache, default_cache_dir
    from training.evaluate.photos import calibration_photos

    with stop_on_error(as_json=as_json):
        opened = Bundle.load(bundle)
        folder = output or _folder_of(opened)
        advice = opened.advice
        values: dict[str, Any] = {}
        if evaluated is not None:
            state = default_state(opened, _document(evaluated))
            advice = advice.model_copy(update={"default_state": state})
            values["default_state"] = state
        if task_decoder is not None:
            advice = advice.model_copy(update={"task_decoder": task_decoder})
            values["task_decoder"] = task_decoder
            opened = opened.advised(advice)
        if photos:
            import cv2

            from codec.kit.recipe import open_recipe
            from shared.results import DEFAULT_THRESHOLD

            cv2.setNumThreads(1)
            found = calibration_photos(photos, side, open_recipe(recipe)[1])
            made = calibrate(
                opened,
                islice(islice(found, 0, None, every), limit),
                PointCache(cache or default_cache_dir()),
                DEFAULT_THRESHOLD,
                lambda text: typer.echo(text, err=True),
            )
            advice = advice.model_copy(update={"score_thresholds": made.thresholds})
            values |= _figures(made)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / ADVICE_NAME, advice.to_bytes())
    print_values({"advice": str(folder / ADVICE_NAME), "bundle_id": opened.id} | values, as_json)


def _figures(made: Any) -> dict[str, Any]:
    """False positives a photo, of all classes together."""
    return {
        "photos": made.photos,
        "false_positives_uncompressed": round(made.allowed, 3),
        "false_positives_before": [round(value, 3) for value in made.before],
        "false_positives": [round(value, 3) for value in made.after],
    }


def _folder_of(bundle: Any) -> Path:
    """Where an unpacked bundle lies. Raises BundleError ``no_folder`` for a zip."""
    from shared.errors import BundleError

    if not Path(bundle.origin).is_dir():
        raise BundleError("no_folder", f"{bundle.origin} is no folder; say where with --output")
    return Path(bundle.origin)


def _document(path: Path) -> dict[str, Any]:
    """Raises EvaluationError ``bad_evaluation``."""
    from training.evaluate.photos import EvaluationError

    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise EvaluationError("bad_evaluation", f"{path}: {error}") from None
    if not isinstance(document, dict) or not {"averages", "points"} & set(document):
        raise EvaluationError(
            "bad_evaluation", f"{path} is neither curves.json nor accuracy-TASK.json"
        )
    return document
