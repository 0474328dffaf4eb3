"""Commands that take many files: each is done on its own, and none stops the rest."""

from __future__ import annotations

import os
import stat
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import typer

from shared.cli.exits import ExitCode, of_system
from shared.cli.output import print_document
from shared.cli.tables import print_table
from shared.errors import FeatherwireError
from shared.limits import DEFAULT_LIMITS
from shared.names import printable, text_of

Record = Mapping[str, Any]


@dataclass
class Outcome:
    """What became of the files: JSON-ready records, and errors beside the file they belong to.

    ``kept``: files whose work is stored, and will be done later.
    """

    results: list[Record] = field(default_factory=list)
    failures: list[Record] = field(default_factory=list)
    kept: list[Record] = field(default_factory=list)

    def fail(self, path: Path, error: FeatherwireError) -> None:
        """Record why a file has no result, and print it."""
        self.failures.append({"file": text_of(path), **error.to_dict()})
        where, what = printable(text_of(path)), printable(error.message)
        sys.stderr.write(f"error: {where}: {what} [{error.reason}]\n")

    def to_json(self) -> dict[str, Any]:
        """The document that ``--json`` prints."""
        kept = {"kept": self.kept} if self.kept else {}
        return {"results": self.results, "failures": self.failures, **kept}


class Batch:
    """Runs one function over files and reports. ``work`` gets a path and returns a record."""

    def __init__(self, *, as_json: bool, columns: Mapping[str, str], title: str = "") -> None:
        """columns: record key -> heading of the table that people see without ``--json``."""
        self._as_json = as_json
        self._columns = columns
        self._title = title
        self._outputs: dict[Path, Path] = {}
        self._claimed: list[Path] = []

    def run(self, paths: Sequence[Path], work: Callable[[Path], Record]) -> None:
        """Do all files, print the outcome, and raise typer.Exit(1) when some failed."""
        outcome = Outcome()
        for number, path in enumerate(paths, 1):
            _progress(number, len(paths), path)
            self._claimed = []
            try:
                outcome.results.append(work(path))
            except FeatherwireError as error:
                self._failed(outcome, path, error)
            except (OSError, MemoryError) as error:
                self._failed(outcome, path, of_system(error))
        self.report(outcome)

    def report(self, outcome: Outcome) -> None:
        """Print an outcome and raise typer.Exit(1) when some failed."""
        if self._as_json:
            print_document(outcome.to_json())
        elif outcome.results:
            self._print_table(outcome.results)
        if outcome.failures:
            raise typer.Exit(ExitCode.SOME_FAILED)

    def claim(self, output: Path, source: Path) -> Path:
        """``output``, unless another file of this run has it, or it is the source itself.

        Raises FeatherwireError ``duplicate_output`` or ``same_file``.
        """
        if output.exists() and source.exists() and output.samefile(source):
            raise FeatherwireError(
                "same_file", f"{output} would overwrite its own source; choose another folder"
            )
        if output not in self._outputs:
            self._outputs[output] = source
            self._claimed.append(output)
        earlier = self._outputs[output]
        if earlier != source:
            raise FeatherwireError(
                "duplicate_output",
                f"{output} is already the output of {earlier}; give it another folder",
            )
        return output

    def _failed(self, outcome: Outcome, path: Path, error: FeatherwireError) -> None:
        for output in self._claimed:  # what was not written is free again
            del self._outputs[output]
        outcome.fail(path, error)

    def _print_table(self, results: Sequence[Record]) -> None:
        numeric = {
            heading
            for key, heading in self._columns.items()
            if all(isinstance(record.get(key), int | float | None) for record in results)
        }
        print_table(
            list(self._columns.values()),
            [[_cell(record.get(key)) for key in self._columns] for record in results],
            right=numeric,
            title=self._title or None,
        )


def write_atomically(path: Path, data: bytes, *, mode: int = 0o666) -> None:
    """Write a file so that a power cut leaves the old file or the new one, never a part.

    mode: its permissions, less those of the umask. Any name that the file system takes will do.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".writing-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, mode & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _progress(number: int, total: int, path: Path) -> None:
    if total > 1 and sys.stderr.isatty():
        sys.stderr.write(f"\r\x1b[K[{number}/{total}] {printable(text_of(path.name))}")
        if number == total:
            sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}"
    return printable(str(value))


def read_file(path: Path, *, max_bytes: int = DEFAULT_LIMITS.max_photo_bytes) -> bytes:
    """The file's bytes.

    Raises FeatherwireError: ``not_found``, ``not_a_file`` (a folder, a pipe, a device),
    ``limit_exceeded``, ``unreadable``.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise FeatherwireError("not_a_file", "not a regular file")
        if facts.st_size > max_bytes:
            raise FeatherwireError(
                "limit_exceeded", f"{facts.st_size} bytes are more than {max_bytes}"
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise FeatherwireError("not_found", "there is no such file") from None
    except OSError as error:
        raise FeatherwireError("unreadable", error.strerror or str(error)) from None
