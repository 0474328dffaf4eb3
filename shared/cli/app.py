"""One command line from the modules of its commands, with ``--version``."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import MutableMapping, Sequence
from importlib import import_module
from typing import Annotated

import typer

from shared.cli.exits import ExitCode
from shared.installation import NO_RELEASE, install_command, package_version
from shared.rpc.proxies import reach_loopback_directly

OUR_PACKAGES = frozenset({"shared", "codec", "edge_client", "cloud_server", "training"})


def build_app(name: str, about: str, package: str, modules: Sequence[str]) -> typer.Typer:
    """An app with ``--version`` and the commands that ``package``'s ``modules`` register.

    A module registers with ``register(app)``, and imports what is heavy only when a command runs.
    """
    app = typer.Typer(
        name=name,
        help=about,
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        add_completion=False,
        rich_markup_mode="rich",
    )
    add_version(app)
    for module in modules:
        import_module(f"{package}.{module}").register(app)
    return app


def run(app: typer.Typer, extras: str) -> None:
    """Run a command line. Where a library is missing it prints how to get it, and ends with 3.

    extras: those that bring what these commands import, as pip takes them: ``"cloud,tasks"``.
    """
    forget_blank_variables(os.environ)
    reach_loopback_directly()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # A name that the terminal's encoding lacks is no reason to fail.
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except ModuleNotFoundError as missing:
        library = (missing.name or "").partition(".")[0]
        if not library or library in OUR_PACKAGES:
            raise
        sys.stderr.write(
            f"error: this command needs the library {library}, which is not installed; get it "
            f"with: {install_command(extras)} [missing_extra]\n"
        )
        raise SystemExit(ExitCode.MISSING) from None


def forget_blank_variables(variables: MutableMapping[str, str]) -> None:
    """A setting that is blank is not set: Compose's ``${X:-}`` and unit files give such."""
    for name, value in list(variables.items()):
        if name.startswith("FEATHERWIRE_") and not value.strip():
            del variables[name]


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
