"""Options and helpers that several commands share, each written once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

from shared.cli import JsonOption, finite, takes
from shared.cli.options import Connecting
from shared.errors import FeatherwireError

LOG_FORMAT = typer.Option("--log-format", help="auto, console or json; on stderr.")
LOG_LEVEL = typer.Option("--log-level", help="debug, info, warning or error.")

# Of commands that read files of features.
BundleOption = Annotated[
    str | None,
    typer.Option("--bundle", help="Bundle folder, zip or name. Default: the file's own."),
]
StateOption = Annotated[
    int | None,
    typer.Option("--state", min=0, help="Decode at this coarser state. Default: the finest."),
]
DecoderOption = Annotated[
    str | None,
    typer.Option(
        "--decoder",
        metavar="NAME",
        help="Which of the bundle's decoders makes the picture: faithful, vivid and the like. "
        "Default: its first.",
    ),
]
SeedOption = Annotated[
    int,
    typer.Option(
        min=0,
        max=2**63 - 1,
        help="Of what a decoder draws by chance: the same seed gives the same picture.",
    ),
]
ScoreOption = Annotated[
    float | None,
    typer.Option(
        "--score",
        min=0,
        max=1,
        parser=finite("a score", minimum=0, maximum=1),
        help="Show what is found from this score, 0 to 1. Default: each task's own, and what a "
        "bundle advises for its states, so that no more is found that is not there.",
    ),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda, cuda:1 ...")]


@dataclass(frozen=True)
class Call(Connecting):
    """Which server is called, how, and how its answer is printed. Each field is an option."""

    as_json: JsonOption = False


calls = takes(Call)
"""Gives a command, whose first parameter is a :class:`Call`, that call's options."""


def parse_labels(labels: list[str] | None) -> dict[str, str]:
    """Labels of NAME=VALUE each. Raises ``FeatherwireError("bad_option")``."""
    pairs = [label.partition("=") for label in labels or ()]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise FeatherwireError("bad_option", f"a label is NAME=VALUE, not {name}")
    return {name: value for name, _, value in pairs}
