"""featherwire-cloud: serve, decode, analyze, and the models that tasks need."""

from __future__ import annotations

from importlib import import_module

import typer

from shared.cli import add_version

_COMMANDS = ("serve", "decode", "analyze", "models")


def build_app() -> typer.Typer:
    """The command line; modules of commands import what is heavy only when they run."""
    app = typer.Typer(
        name="featherwire-cloud",
        help="Decode features, reconstruct pictures, and run vision tasks on them.\n\n"
        "Exit status: 0 all done, 1 some files failed, 2 wrong usage, 3 a bundle or weights are "
        "missing or damaged, 4 a peer is unreachable or refused.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        add_completion=False,
        rich_markup_mode="rich",
    )
    add_version(app)
    for name in _COMMANDS:
        import_module(f"cloud_server.cli.{name}").register(app)
    return app


def main() -> None:
    """Entry point of the console script."""
    build_app()()
