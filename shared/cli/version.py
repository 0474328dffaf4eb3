"""--version, the same for every command line."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Annotated

import typer


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    try:
        typer.echo(version("featherwire"))
    except PackageNotFoundError:
        typer.echo("unknown: not installed")
    raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version)
]


def add_version(app: typer.Typer) -> None:
    """Give ``app`` the option ``--version``."""

    @app.callback()
    def options(show: VersionOption = False) -> None:
        del show
