"""Files that are appended to: JSON lines, and CSV.

A file that was rotated away is opened anew, one that was truncated in place begins again, and one
that cannot be gone on with is moved aside.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import logging
import os
import stat
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from shared.errors import SinkError
from shared.json_text import readable, to_json
from shared.names import beside
from shared.results import Box
from shared.sinks.report import Report, iso

_MAY_PASS = {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.ESTALE, errno.ENODEV}
"""What a disk has now and not for ever: it keeps no camera from its pictures."""

MAX_SUFFIXES_BYTES = 100
CSV_COLUMNS = (
    "captured_at",
    "device",
    "session",
    "sequence",
    "source",
    "cursor",
    "state",
    "bytes",
    "bits_per_pixel",
    "task",
    "class",
    "score",
    "x_min",
    "y_min",
    "x_max",
    "y_max",
    "error",
)


class AppendedFile:
    """Whole lines at the end of a file, or on standard output."""

    at_once = 64

    def __init__(self, path: Path | None, header: str = "") -> None:
        """header: the first line of a new file, with its end. A file with another first line is
        moved aside; a pipe or a device is written as it is. A disk that is full, or damaged, may be
        another one when there is something to write. Raises SinkError: not_writable, other_columns
        when it cannot be moved."""
        self.name = "stdout" if path is None else str(path)
        self._path = path
        self._header = header
        self._file: BinaryIO | None = None
        with unless_it_may_pass():
            self._open()

    def append(self, text: str) -> None:
        """Append text as a whole. Raises SinkError; then nothing of it is in the file."""
        if self._path is None:
            self._print(text)
            return
        if self._file is None or self._moved():
            self._open()
        assert self._file is not None
        plain, end = _is_plain(self._file), os.fstat(self._file.fileno()).st_size
        # Empty although its header was written: it was truncated, as logrotate's copytruncate does.
        header = self._header if plain and end == 0 else ""
        try:
            write_whole(self._file, header + text)
        except OSError as error:
            with contextlib.suppress(OSError):  # also of what has no length
                os.truncate(self._file.fileno(), end)
            self._close()
            raise self._not_writable(error) from None

    def close(self) -> None:
        """Close the file."""
        self._close()

    def _print(self, text: str) -> None:
        encoding = sys.stdout.encoding or "utf-8"
        try:
            # A terminal's alphabet may lack what a class, or a file, is called.
            sys.stdout.write(text.encode(encoding, "replace").decode(encoding, "replace"))
            sys.stdout.flush()
        except OSError as error:
            raise self._not_writable(error) from None

    def _moved(self) -> bool:
        assert self._path is not None
        assert self._file is not None
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except OSError:
            return True

    def _open(self) -> None:
        if self._path is None:
            self._print(self._header)
            return
        self._close()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab+", buffering=0)
            if not _is_plain(self._file):  # there is nothing to look at, and it stays where it is
                write_whole(self._file, self._header)
                return
            if not self._goes_on():
                self._close()
                self._move_aside()
                self._file = self._path.open("ab+", buffering=0)
            end = self._file.seek(0, os.SEEK_END)
            if end == 0:
                write_whole(self._file, self._header)
            else:
                # A last line that a power cut has left without its end would spoil the next one.
                self._file.seek(end - 1)
                if self._file.read(1) != b"\n":
                    write_whole(self._file, "\n")
        except OSError as error:
            self._close()
            raise self._not_writable(error) from None

    def _goes_on(self) -> bool:
        """Whether the file's first line is the header, whatever an editor has made of its end."""
        assert self._file is not None
        header = self._header.encode().rstrip(b"\r\n")
        self._file.seek(0)
        first = self._file.read(len(header) + 5)
        if not header or not first:
            return True
        line = first.removeprefix(b"\xef\xbb\xbf").split(b"\n")[0].rstrip(b"\r")
        return line == header

    def _move_aside(self) -> None:
        assert self._path is not None
        try:
            aside = move_aside(self._path)
        except OSError as error:
            raise SinkError(
                "other_columns",
                f"{self.name} has other columns, and cannot be moved aside: {error.strerror}",
            ) from None
        logging.getLogger(__name__).warning(
            "warning: %s has other columns: it is %s now, and a new one begins", self.name, aside
        )

    def _close(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            file.close()

    def _not_writable(self, error: OSError) -> SinkError:
        return not_writable(self.name, error)


def _is_plain(file: BinaryIO) -> bool:
    return stat.S_ISREG(os.fstat(file.fileno()).st_mode)


def write_whole(file: BinaryIO, text: str) -> None:
    """Write all of the text, as UTF-8. Raises OSError; then a part may be there."""
    rest = memoryview(text.encode("utf-8", "replace"))
    while rest:
        rest = rest[file.write(rest) :]


def move_aside(path: Path) -> Path:
    """Give a file at ``path`` a free name beside it, with a number in it; returns the name. Raises
    OSError, also for what is no plain file: a device is not ours."""
    path = path.resolve()  # a link stays, to what comes in its place
    if not path.is_file():
        raise OSError(errno.EINVAL, "it is no plain file", str(path))
    stem, dot, suffixes = path.name.partition(".")
    if len(os.fsencode(suffixes)) > MAX_SUFFIXES_BYTES:  # they are none, and leave no room
        stem, dot, suffixes = path.name, "", ""
    number = 1
    while True:
        aside = beside(path.parent, stem, f".{number}{dot}{suffixes}")
        if not os.path.lexists(aside):
            return path.rename(aside)
        number += 1


@contextlib.contextmanager
def unless_it_may_pass() -> Iterator[None]:
    """Let a ``not_writable`` be a warning when its cause may be gone at the next attempt."""
    try:
        yield
    except SinkError as error:
        if error.details.get("errno") not in _MAY_PASS:
            raise
        logging.getLogger(__name__).warning("warning: %s; it is tried again", error.message)


def not_writable(name: str, error: OSError) -> SinkError:
    """Why nothing can be written there; ``errno`` as the system has it."""
    return SinkError("not_writable", f"{name}: {error.strerror or error}", errno=error.errno)


class JsonLinesSink(AppendedFile):
    """Writes reports as ``Report.to_dict`` has them, one a line."""

    def deliver(self, reports: Sequence[Report]) -> None:
        """Append the reports."""
        self.append("".join(to_json(report.to_dict()) + "\n" for report in reports))


class CsvSink(AppendedFile):
    """Writes a row for each finding; a frame without findings has a row too."""

    def __init__(self, path: Path | None) -> None:
        super().__init__(path, _csv([CSV_COLUMNS]))

    def deliver(self, reports: Sequence[Report]) -> None:
        """Append the reports' rows."""
        self.append(_csv(row for report in reports for row in csv_rows(report)))


class TerminalSink(AppendedFile):
    """Prints a line for each report, for people."""

    def __init__(self) -> None:
        super().__init__(None)
        self.name = "terminal"

    def deliver(self, reports: Sequence[Report]) -> None:
        """Print the reports."""
        self.append("".join(line(report) + "\n" for report in reports))


def line(report: Report) -> str:
    """A report for people, in a line."""
    number = f"{report.sequence}" + ("" if report.cursor is None else f"@{report.cursor}")
    state = "-" if report.state is None else report.state
    bits = report.bits_per_pixel
    rate = "-" if bits is None else f"{bits:.3f} bpp"
    words = (iso(report.captured_at) or "-", report.device, number, f"state {state}", rate)
    return "  ".join(map(str, (*words, readable(report.source) or "-", report.found)))


def csv_rows(report: Report) -> Iterator[tuple[object, ...]]:
    """The rows of a report, by ``CSV_COLUMNS``; None is empty."""
    frame = (
        iso(report.captured_at),
        report.device,
        report.session,
        report.sequence,
        readable(report.source),
        report.cursor,
        report.state,
        report.payload_bytes,
        report.bits_per_pixel,
    )
    empty = 0
    for name, task in report.analysis.tasks.items() if report.analysis is not None else ():
        for found in task.found:
            empty = 1
            kind = getattr(found, "class_name", "face")
            score = getattr(found, "score", getattr(found, "share", None))
            yield (*frame, name, kind, score, *_sides(getattr(found, "box", None)), None)
    for name, error in report.task_errors.items():
        empty = 1
        yield (*frame, name, None, None, *_sides(None), error.reason)
    if not empty:
        reason = None if report.error is None else report.error.reason
        yield (*frame, None, None, None, *_sides(None), reason)


def _sides(box: Box | None) -> tuple[float | None, ...]:
    if box is None:
        return (None,) * 4
    return box.x_min, box.y_min, box.x_max, box.y_max


def _csv(rows: object) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)  # type: ignore[arg-type]
    return text.getvalue()


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
