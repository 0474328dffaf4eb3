"""Results of a server's log to sinks: each at least once, from a cursor that is kept in a file."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from shared.cli import finite, write_atomically
from shared.errors import FeatherwireError

if TYPE_CHECKING:
    from shared.proto.featherwire.v1 import results_pb2
    from shared.sinks import Report

CLIENT = "featherwire-cloud"
CAPACITY = 256
NOTE_EVERY_S = 1.0

ToOption = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="WHERE",
        help="Results go there instead: - (terminal), FILE.jsonl, FILE.csv, FILE.coco.json, "
        "mqtt://HOST/TOPIC, https://HOOK. May be repeated.",
    ),
]
CursorFileOption = Annotated[
    Path | None,
    typer.Option(
        "--cursor-file",
        help="With --to: remembers what is delivered, and goes on behind it. --after is for the "
        "first time.",
    ),
]
GiveUpOption = Annotated[
    float | None,
    typer.Option(
        "--give-up-after",
        min=0,
        parser=finite("seconds", minimum=0),
        help="With --to: seconds after which a result that a webhook answers with a failure (5xx) "
        "is dropped, so that the next ones go on. Default: never.",
    ),
]


def first_cursor(file: Path | None, after: int | None) -> int | None:
    """Where to go on: what the file says, else ``after``. Raises ``bad_option``."""
    if file is None or not file.exists():
        return after
    text = file.read_text(encoding="ascii", errors="replace").strip()
    if not text.isascii() or not text.isdigit():
        raise FeatherwireError("bad_option", f"{file} holds no cursor")
    return int(text)


def deliver(
    records: Iterable[results_pb2.ResultRecord],
    to: list[str],
    cursor_file: Path | None,
    give_up_s: float | None = None,
) -> None:
    """Bring every record to every sink. One that is slow, or away, lets all wait: the server then
    cuts this consumer off, which comes back to where it was. give_up_s: of a record that a sink
    does not take. Raises SinkError."""
    from shared.sinks import SinkOptions, open_sinks

    noted: int | None = None
    noted_at = time.monotonic()

    def note() -> None:
        nonlocal noted, noted_at
        cursor = sinks.delivered_cursor
        if cursor_file is not None and cursor is not None and cursor != noted:
            write_atomically(cursor_file, f"{cursor}\n".encode())
            noted = cursor
        noted_at = time.monotonic()

    options = SinkOptions(CLIENT, wait=True, capacity=CAPACITY, give_up_s=give_up_s)
    sinks = open_sinks(to, options)
    with _terminated():
        try:
            for record in records:
                report = report_of(record)
                for pump in sinks.pumps:
                    while not pump.put(report, NOTE_EVERY_S):
                        note()
                if time.monotonic() - noted_at > NOTE_EVERY_S:
                    note()
        finally:
            sinks.close()
            note()


def report_of(record: results_pb2.ResultRecord) -> Report:
    """A record as sinks get it."""
    from shared.sinks import Report
    from shared.wire.results import outcome_from_message

    outcome = outcome_from_message(record.outcome)
    return Report(
        device=record.device,
        session=record.session,
        sequence=record.sequence,
        captured_at=_seconds(record, "captured_at"),
        completed_at=_seconds(record, "completed_at"),
        bundle=record.bundle_short_id.hex(),
        state=record.state,
        payload_bytes=0 if outcome.analysis is None else outcome.analysis.payload_bytes,
        cursor=record.cursor,
        analysis=outcome.analysis,
        error=outcome.error,
        task_errors=outcome.task_errors,
    )


def _seconds(record: results_pb2.ResultRecord, field: str) -> float | None:
    if not record.HasField(field):  # type: ignore[arg-type]
        return None
    stamp = getattr(record, field)
    return float(stamp.seconds) + stamp.nanos / 1e9


@contextmanager
def _terminated() -> Iterator[None]:
    """SIGTERM ends as Ctrl-C does; a second one does not disturb the end."""

    def end(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
