"""One command line from the modules of its commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module

import typer

from shared.cli.exits import ExitCode
from shared.cli.version import add_version

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
    """Run a command line. Where a library is missing it says how to get it, and ends with 3.

    extras: those that bring what these commands import, as pip takes them: ``"cloud,tasks"``.
    """
    try:
        app()
    except ModuleNotFoundError as missing:
        library = (missing.name or "").partition(".")[0]
        if not library or library in OUR_PACKAGES:
            raise
        sys.stderr.write(
            f"error: this command needs the library {library}, which is not installed; get it "
            f"with: pip install 'featherwire[{extras}]' [missing_extra]\n"
        )
        raise SystemExit(ExitCode.MISSING) from None
