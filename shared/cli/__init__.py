"""What the three command lines have in common: exit codes, file batches, output."""

from __future__ import annotations

from shared.cli.batch import Batch, Outcome, in_words, read_file, write_atomically
from shared.cli.exits import ExitCode, stop_on_error
from shared.cli.options import JsonOption, bits_per_second, finite, split_names, takes
from shared.cli.tables import RATE_COLUMNS, print_table, rate_record

__all__ = [
    "RATE_COLUMNS",
    "Batch",
    "ExitCode",
    "JsonOption",
    "Outcome",
    "bits_per_second",
    "finite",
    "in_words",
    "print_table",
    "rate_record",
    "read_file",
    "split_names",
    "stop_on_error",
    "takes",
    "write_atomically",
]
