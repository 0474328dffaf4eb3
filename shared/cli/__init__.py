"""What the three command lines have in common: exit codes, file batches, output."""

from __future__ import annotations

from shared.cli.batch import Batch, Outcome, in_words, write_atomically
from shared.cli.exits import ExitCode, stop_on_error
from shared.cli.files import read_file
from shared.cli.groups import takes
from shared.cli.options import bits_per_second, finite
from shared.cli.rate import RATE_COLUMNS, rate_record
from shared.cli.tables import print_table

__all__ = [
    "RATE_COLUMNS",
    "Batch",
    "ExitCode",
    "Outcome",
    "bits_per_second",
    "finite",
    "in_words",
    "print_table",
    "rate_record",
    "read_file",
    "stop_on_error",
    "takes",
    "write_atomically",
]
