"""--version, the same for every command line."""

from __future__ import annotations

from typing import Annotated

import typer

from shared.installation import NO_RELEASE, package_version


def _print_version(wanted: bool) -> None:
    if not wanted:
        return
    release = package_version()
    typer.echo("unknown: not installed" if release == NO_RELEASE else release)
    raise typer.Exit


VersionOption = Annotated[
    bool, typer.Option("--version", help="Print the version and stop.", callback=_print_version)
]


def add_version(app: typer.Typer) -> None:
    """Give ``app`` the option ``--version``."""

    @app.callback()
    def options(show: VersionOption = False) -> None:
        del show
