"""featherwire-cloud: serve, console, results, fleet, auth, loadtest, decode, analyze, models."""

from __future__ import annotations

import typer

from shared.cli import app as command_line
from shared.cli.help import OUTPUT, SECURITY, SINKS, Panels

_COMMANDS = (
    "serve", "console", "results", "decode", "analyze", "models", "auth", "fleet", "loadtest",
)  # fmt: skip
_PANELS: Panels = {
    "Analysis": (
        *("--bundle", "--bundles", "--tasks", "--detector", "--segmenter", "--score"),
        *("--workers", "--models-dir", "--credits", "--decoder", "--seed"),
    ),
    "Rate": ("--state", "--bpp", "--bytes", "--bandwidth", "--fps", "--reset"),
    "Refinement": ("--refine-band", "--refine-bundle", "--refine-state"),
    "Storage": ("--data", "--database", "--keep-days", "--keep-bytes", "--cache-dir"),
    "Server and security": (
        *(
            "--listen",
            "--metrics",
            "--console",
            "--root-path",
            "--console-root-path",
            "--https-cert",
            "--https-key",
        ),
        *SECURITY,
    ),
    "Log and end": ("--log-format", "--log-level", "--drain-deadline"),
    "Sinks": SINKS,
    "Output": (*OUTPUT, "--picture", "--annotate", "--photo"),
}
_ABOUT = (
    "Decode features, reconstruct pictures, and run vision tasks on them.\n\n"
    "Exit status: 0 all done, 1 some files failed, 2 wrong usage, 3 a bundle, weights or a log are "
    "missing or damaged, 4 a peer is unreachable or refused, 130 interrupted."
)


def build_app() -> typer.Typer:
    """The command line with all its commands."""
    return command_line.build_app("featherwire-cloud", _ABOUT, __name__, _COMMANDS, _PANELS)


def main() -> None:
    """Entry point of the console script."""
    command_line.run(build_app(), "cloud,tasks")
