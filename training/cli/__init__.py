"""featherwire-train: the steps that make a bundle, and what measures it."""

from __future__ import annotations

import typer

from shared.cli import app as command_line

_COMMANDS = ("steps", "evaluate", "advise", "ablate")
_ABOUT = (
    "Make a bundle from photos, then evaluate it.\n\n"
    "featherwire-train STEP --recipe R follows one step of a recipe, a YAML file or the name of "
    "one that a codec brings; featherwire-train steps --recipe R lists its steps, and "
    "featherwire-train STEP --recipe R --help their options. Every step reads the recipe and one "
    "run folder, and can be run again: fit goes on from its last checkpoint.\n\n"
    "Exit status: 0 done, 1 failed, 2 wrong usage, 3 a bundle or weights are missing, "
    "130 interrupted."
)


def build_app() -> typer.Typer:
    """The command line with all its commands."""
    return command_line.build_app("featherwire-train", _ABOUT, __name__, _COMMANDS)


def main() -> None:
    """Entry point of the console script."""
    command_line.run(build_app(), "train")
