"""featherwire-cloud: serve, console, results, fleet, auth, loadtest, decode, analyze, models."""

from __future__ import annotations

import typer

from shared.cli import app as command_line

_COMMANDS = (
    "serve", "console", "results", "decode", "analyze", "models", "auth", "fleet", "loadtest",
)  # fmt: skip
_ABOUT = (
    "Decode features, reconstruct pictures, and run vision tasks on them.\n\n"
    "Exit status: 0 all done, 1 some files failed, 2 wrong usage, 3 a bundle, weights or a log are "
    "missing or damaged, 4 a peer is unreachable or refused, 130 interrupted."
)


def build_app() -> typer.Typer:
    """The command line with all its commands."""
    return command_line.build_app("featherwire-cloud", _ABOUT, __name__, _COMMANDS)


def main() -> None:
    """Entry point of the console script."""
    command_line.run(build_app(), "cloud,tasks")
