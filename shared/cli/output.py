"""What programs read of a command: with ``--json`` one document, or a document a line.

A command that ends by itself prints one document; one that goes on, such as `stream`, prints one a
line, at once. What ends a command is ``{"error": {...}}`` on standard output, in place of the
document or as a line of its own, and words on standard error, with or without ``--json``.
"""

from __future__ import annotations

import errno
import sys
import threading
from collections.abc import Iterable, Mapping
from typing import Any, TextIO

from shared.errors import FeatherwireError
from shared.json_text import to_json
from shared.names import printable

_PRINTING = threading.Lock()


def print_document(document: Mapping[str, Any]) -> None:
    """Print the one document of a command that ends by itself."""
    _write(sys.stdout, to_json(document, indent=1))


def print_line(document: Mapping[str, Any]) -> None:
    """Print a document in a line of its own, at once. Thread-safe."""
    _write(sys.stdout, to_json(document))


def print_list(name: str, items: Iterable[Mapping[str, Any]]) -> None:
    """Print ``{name: [...]}``, an item a line as it comes, of however many.

    Where they end with an error, the document is whole all the same: those that came, and ``error``
    beside them; the error is raised again as ``Told``. One before the first is raised as it is.
    """
    coming = iter(items)
    item = next(coming, None)
    _write(sys.stdout, f'{{"{name}": [', end="")
    told: FeatherwireError | None = None
    try:
        while item is not None:
            _write(sys.stdout, "\n" + to_json(item), end="")
            item = next(coming, None)
            if item is not None:
                _write(sys.stdout, ",", end="")
    except FeatherwireError as error:
        told = error
    _write(sys.stdout, "]}" if told is None else f'], "error": {to_json(told.to_dict())}}}')
    if told is not None:
        raise Told(told)


class Told(Exception):  # the error is its cause
    """An error that standard output has already."""

    def __init__(self, cause: FeatherwireError) -> None:
        super().__init__(cause.message)
        self.cause = cause


def print_error(error: FeatherwireError, *, as_json: bool, told: bool = False) -> None:
    """What ends a command: with ``as_json`` a document, and in any case a line for people.

    told: standard output has it already.
    """
    if as_json and not told:
        print_line({"error": error.to_dict()})
    _write(sys.stderr, f"error: {printable(error.message)} [{error.reason}]")


def _write(stream: TextIO, text: str, end: str = "\n") -> None:
    with _PRINTING:
        try:
            stream.write(text + end)
            stream.flush()
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that has gone away: nobody reads it
                raise
