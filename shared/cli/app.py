"""One command line from the modules of its commands."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module

import typer

from shared.cli.version import add_version


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
