"""What the three command lines have in common: exit codes, file batches, output."""

from __future__ import annotations

from shared.cli.batch import Batch, Outcome, read_file, write_atomically
from shared.cli.exits import ExitCode, in_words, stop_on_error
from shared.cli.options import (
    JsonLinesOption,
    JsonOption,
    bits_per_second,
    finite,
    split_names,
    takes,
    whole,
)
from shared.cli.output import print_document, print_line, print_list
from shared.cli.tables import RATE_COLUMNS, print_table, rate_record

__all__ = [
    "RATE_COLUMNS",
    "Batch",
    "ExitCode",
    "JsonLinesOption",
    "JsonOption",
    "Outcome",
    "bits_per_second",
    "finite",
    "in_words",
    "print_document",
    "print_line",
    "print_list",
    "print_table",
    "rate_record",
    "read_file",
    "split_names",
    "stop_on_error",
    "takes",
    "whole",
    "write_atomically",
]
