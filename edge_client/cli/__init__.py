"""featherwire-edge: encode, inspect, truncate, send and stream photos."""

from __future__ import annotations

import os

import typer

from shared.cli import app as command_line
from shared.cli.help import OUTPUT, SECURITY, SINKS, Panels

_COMMANDS = ("encode", "files", "send", "stream")
_PANELS: Panels = {
    "Source": (
        *("--fps", "--motion", "--motion-levels", "--still-every", "--live", "--loop", "--input"),
        *("--source-timeout", "--source-patience", "--move-to"),
    ),
    "Rate": (
        *("--state", "--bpp", "--bytes", "--psnr", "--best-effort", "--lambda", "--region"),
        *("--bandwidth", "--frames-per-second", "--key-every", "--predict"),
    ),
    "Features": ("--bundle", "--also", "--with", "--format", "--precision", "--threads"),
    "Server and security": (
        *SECURITY,
        *("--device", "--rename", "--tasks", "--deadline", "--window", "--grace"),
    ),
    "Spool": ("--spool", "--spool-policy", "--spool-bytes", "--spool-age"),
    "Sinks": SINKS,
    "Output": (*OUTPUT, "--picture", "--decoder", "--status-every", "--quiet"),
}
_ABOUT = (
    "Turn photos into features at a rate you choose, and send those, not pictures.\n\n"
    "Exit status: 0 all done, 1 some files failed, 2 wrong usage, 3 a bundle or an "
    "extra is missing, or a bundle damaged, 4 the server is unreachable or refused, 130 "
    "interrupted."
)


def build_app() -> typer.Typer:
    """The command line with all its commands."""
    return command_line.build_app("featherwire-edge", _ABOUT, __name__, _COMMANDS, _PANELS)


def main() -> None:
    """Entry point of the console script."""
    # Before numpy is imported: its products are small, and threads for them fight over a device's
    # cores. The network's threads are `--threads`.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    command_line.run(build_app(), "edge")
