"""featherwire-train: the steps that make a bundle, and what measures it."""

from __future__ import annotations

from importlib import import_module

import typer

from shared.cli import add_version

_COMMANDS = ("steps", "evaluate")


def build_app() -> typer.Typer:
    """The command line; modules of commands import what is heavy only when they run."""
    app = typer.Typer(
        name="featherwire-train",
        help="Make a bundle from photos: photos, fit, palette, tables, export; then evaluate.\n\n"
        "Every step reads one YAML recipe and one run folder, and can be run again: fit goes on "
        "from its last checkpoint.\n\n"
        "Exit status: 0 done, 1 failed, 2 wrong usage, 3 a bundle or weights are missing.",
        no_args_is_help=True,
        pretty_exceptions_show_locals=False,
        add_completion=False,
        rich_markup_mode="rich",
    )
    add_version(app)
    for name in _COMMANDS:
        import_module(f"training.cli.{name}").register(app)
    return app


def main() -> None:
    """Entry point of the console script."""
    build_app()()
