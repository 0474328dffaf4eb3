"""What the three command lines have in common: exit codes, file batches, output."""

from __future__ import annotations

from shared.cli.batch import Batch, Outcome, write_atomically
from shared.cli.exits import ExitCode, stop_on_error
from shared.cli.files import read_file

__all__ = [
    "Batch",
    "ExitCode",
    "Outcome",
    "read_file",
    "stop_on_error",
    "write_atomically",
]
