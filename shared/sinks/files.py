"""Files that are appended to: JSON lines, and CSV. A rotated file is opened anew."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from shared.errors import SinkError
from shared.results import Box
from shared.sinks.report import Report, iso

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
        """header: the first line of a new file, with its end. Raises SinkError: not_writable,
        other_columns when the file has another first line."""
        self.name = "stdout" if path is None else str(path)
        self._path = path
        self._header = header
        self._file: IO[str] | None = None
        self._open()

    def append(self, text: str) -> None:
        """Append text as a whole. Raises SinkError; then nothing of it is in the file."""
        if self._path is None:
            sys.stdout.write(text)
            sys.stdout.flush()
            return
        if self._moved():
            self._open()
        assert self._file is not None
        end = os.fstat(self._file.fileno()).st_size
        try:
            self._file.write(text)
            self._file.flush()
        except OSError as error:
            try:
                os.truncate(self._path, end)
            finally:
                self._file = None
            raise SinkError("not_writable", f"{self.name}: {error.strerror}") from None

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()

    def _moved(self) -> bool:
        assert self._path is not None
        if self._file is None:
            return True
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._file.fileno()))
        except OSError:
            return True

    def _open(self) -> None:
        if self._path is None:
            sys.stdout.write(self._header)
            return
        try:
            if self._file is not None:
                self._file.close()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # A last line that a power cut has left without its end would spoil the next one.
            self._file = self._path.open("a+", encoding="utf-8", newline="")
            end = self._file.tell()
            self._file.seek(0)
            first = self._file.readline() if self._header and end else self._header
            if end == 0:
                self._file.write(self._header)
            elif _last_byte(self._path) != b"\n":
                self._file.write("\n")
            self._file.flush()
        except OSError as error:
            self._file = None
            raise SinkError("not_writable", f"{self.name}: {error.strerror}") from None
        if first != self._header:
            raise SinkError("other_columns", f"{self.name} has other columns: {first.strip()[:80]}")


class JsonLinesSink(AppendedFile):
    """Writes reports as ``Report.to_dict`` has them, one a line."""

    def deliver(self, reports: Sequence[Report]) -> None:
        """Append the reports."""
        self.append("".join(json.dumps(report.to_dict()) + "\n" for report in reports))


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
    number = report.sequence if report.cursor is None else report.cursor
    state = "-" if report.state is None else report.state
    bits = report.bits_per_pixel
    rate = "-" if bits is None else f"{bits:.3f} bpp"
    words = (iso(report.captured_at) or "-", report.device, number, f"state {state}", rate)
    return "  ".join(map(str, (*words, report.source or "-", report.found)))


def csv_rows(report: Report) -> Iterator[tuple[object, ...]]:
    """The rows of a report, by ``CSV_COLUMNS``; None is empty."""
    frame = (
        iso(report.captured_at),
        report.device,
        report.session,
        report.sequence,
        report.source,
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
