"""What the three command lines have in common: exit codes, file batches, output."""

from __future__ import annotations

from shared.cli.batch import Batch, Outcome, write_atomically
from shared.cli.exits import ExitCode, stop_on_error

__all__ = ["Batch", "ExitCode", "Outcome", "stop_on_error", "write_atomically"]
