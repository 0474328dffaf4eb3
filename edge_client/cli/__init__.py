"""featherwire-edge: encode, inspect, truncate and send photos."""

from __future__ import annotations

from importlib import import_module

import typer

from shared.cli import add_version

_COMMANDS = ("encode", "inspect", "truncate", "send")


def build_app() -> typer.Typer:
    """The command line; modules of commands import what is heavy only when they run."""
    app = typer.Typer(
        name="featherwire-edge",
        help="Turn photos into features at a rate you choose, and send those, not pictures.\n\n"
        "Exit status: 0 all done, 1 some files failed, 2 wrong usage, 3 a bundle is missing or "
        "damaged, 4 the server is unreachable or refused.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        add_completion=False,
        rich_markup_mode="rich",
    )
    add_version(app)
    for name in _COMMANDS:
        import_module(f"edge_client.cli.{name}").register(app)
    return app


def main() -> None:
    """Entry point of the console script."""
    build_app()()
