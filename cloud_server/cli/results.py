"""featherwire-cloud results: what a server found, and the frames behind it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

import typer

from cloud_server.cli.options import Call, calls, print_json
from shared.cli import finite, print_table, stop_on_error, takes, write_atomically
from shared.errors import FeatherwireError

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from cloud_server.consumers import ResultClient
    from shared.proto.featherwire.v1 import results_pb2
    from shared.sinks import Report

FrameArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="CURSOR | DEVICE SESSION SEQUENCE",
        help="A result by its cursor, or a frame by its three names.",
    ),
]

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

CLIENT = "featherwire-cloud"
CAPACITY = 256
NOTE_EVERY_S = 1.0

_TimeField: TypeAlias = Literal["captured_at", "completed_at"]
_COLUMNS = ("cursor", "device", "session", "frame", "state", "captured", "found")


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    results = typer.Typer(
        help="Results in a server's log: each has a cursor, which is where to go on from.",
        no_args_is_help=True,
    )
    results.command("list")(list_results)
    results.command("get")(get)
    results.command("watch")(watch)
    results.command("frame")(frame)
    app.add_typer(results, name="results")


@dataclass(frozen=True)
class Filtering(Call):
    """A call about some results, or all. Each field is an option."""

    device: Annotated[
        list[str] | None,
        typer.Option("--device", help="Only results of this device; may be repeated."),
    ] = None
    session: Annotated[
        list[str] | None,
        typer.Option("--session", help="Only results of this session; may be repeated."),
    ] = None
    task: Annotated[
        list[str] | None,
        typer.Option("--task", help="Only results in which this task ran; may be repeated."),
    ] = None
    class_name: Annotated[
        list[str] | None,
        typer.Option("--class", help="Only results with an object of this class; may be repeated."),
    ] = None
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Stop after so many results.")
    ] = None

    def filter(self) -> results_pb2.ResultFilter:
        """Which results are meant."""
        from shared.proto.featherwire.v1 import results_pb2

        return results_pb2.ResultFilter(
            devices=self.device,
            sessions=self.session,
            tasks=self.task,
            class_names=self.class_name,
        )


@takes(Filtering)
def list_results(
    call: Filtering,
    after: Annotated[
        int, typer.Option("--after", min=0, max=2**62, help="Only results after this cursor.")
    ] = 0,
) -> None:
    """List the results that are in the log, oldest first."""
    with stop_on_error(as_json=call.as_json), _client(call) as client:
        found = client.list(call.filter(), after=after)
        _print(_first(found, call.limit), call.as_json)


@calls
def get(
    call: Call,
    key: FrameArgument,
) -> None:
    """Print one result, by its cursor, or the newest of a frame."""
    with stop_on_error(as_json=call.as_json), _client(call) as client:
        _print([_get(client, key)], call.as_json)


@takes(Filtering)
def watch(
    call: Filtering,
    after: Annotated[
        int | None,
        typer.Option(
            "--after",
            min=0,
            max=2**62,
            help="First those behind this cursor; 0: all. Default: only new ones.",
        ),
    ] = None,
    patience_s: Annotated[
        float,
        typer.Option(
            "--patience",
            parser=finite("seconds", minimum=0),
            help="Seconds to go on trying when the server is away.",
        ),
    ] = 60.0,
    to: ToOption = None,
    cursor_file: CursorFileOption = None,
    give_up_s: GiveUpOption = None,
) -> None:
    """Print results as they come, until Ctrl-C. Each comes at least once, and in order."""
    with stop_on_error(as_json=call.as_json), _client(call) as client:
        wanted = call.filter()
        if cursor_file is not None and not to:
            raise FeatherwireError("bad_option", "--cursor-file is for results that go --to sinks")
        after = _first_cursor(cursor_file, after)
        responses = client.watch(wanted, after=after, patience_s=patience_s)
        records = (one.record for one in responses if one.HasField("record"))
        if to:
            _deliver(_first(records, call.limit), to, cursor_file, give_up_s)
            return
        for record in _first(records, call.limit):
            if call.as_json:
                _print([record], call.as_json)
            else:
                print("  ".join(_row(record)), flush=True)


@calls
def frame(
    call: Call,
    key: FrameArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File, FILE.fwf.")],
    state: Annotated[
        int | None, typer.Option("--state", min=0, max=255, help="No finer than this state.")
    ] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(
            "--bytes", min=1, max=2**62, help="At most so many bytes; whole layers are left out."
        ),
    ] = None,
    bundle: Annotated[
        str | None,
        typer.Option(
            "--bundle", help="The bundle whose features are meant. Default: the frame's first."
        ),
    ] = None,
    picture: Annotated[
        bool, typer.Option("--picture", help="Save its reconstruction too, as FILE.png.")
    ] = False,
) -> None:
    """Save a frame's features as they were received, or cut: nothing is encoded again."""
    from shared.bundle import Bundle
    from shared.cli import rate_record
    from shared.proto.featherwire.v1 import results_pb2
    from shared.wire import PictureRequest

    with stop_on_error(as_json=call.as_json):
        bundle_id = b"" if bundle is None else Bundle.load(bundle).short_id
        with _client(call) as client:
            if len(key) == 1:
                found = _get(client, key)
                named = results_pb2.FrameKey(
                    device=found.device, session=found.session, sequence=found.sequence
                )
            else:
                named = _frame_key(key)
            bitstream, made = client.frame(
                named,
                state=state,
                max_bytes=max_bytes,
                bundle_id=bundle_id,
                picture=PictureRequest() if picture else None,
            )
        write_atomically(output, bitstream.to_bytes())
        record: dict[str, Any] = {"file": str(output), **rate_record(bitstream)}
        if made is not None:
            record["picture"] = str(output.with_suffix(".png"))
            write_atomically(output.with_suffix(".png"), made.data)
    if call.as_json:
        print_json(record)
    else:
        print("\n".join(f"{name} {value}" for name, value in record.items() if value is not None))


# -- parts ---------------------------------------------------------------------------------------


def _client(call: Call) -> ResultClient:
    way = call.access()
    from cloud_server.consumers import ResultClient

    return ResultClient(call.server, way)


def _get(client: ResultClient, key: list[str]) -> results_pb2.ResultRecord:
    if len(key) == 1:
        return client.get(cursor=_number("CURSOR", key[0]))
    return client.get(frame=_frame_key(key))


def _frame_key(key: list[str]) -> results_pb2.FrameKey:
    from shared.proto.featherwire.v1 import results_pb2

    if len(key) != 3:
        raise FeatherwireError("bad_option", "name it as CURSOR, or as DEVICE SESSION SEQUENCE")
    device, session, sequence = key
    return results_pb2.FrameKey(
        device=device, session=session, sequence=_number("SEQUENCE", sequence)
    )


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**63:
        raise FeatherwireError("bad_option", f"{name} is a number from 1 on, not {text}")
    return int(text)


def _first(
    records: Iterable[results_pb2.ResultRecord], limit: int | None
) -> Iterable[results_pb2.ResultRecord]:
    for number, record in enumerate(records, start=1):
        yield record
        if number == limit:
            return


def _print(records: Iterable[results_pb2.ResultRecord], as_json: bool) -> None:
    if as_json:
        for record in records:
            print_json(_document(record))
    else:
        rows = [_row(record) for record in records]
        print_table(_COLUMNS, rows, right={"cursor", "frame", "state"}, unbroken={"cursor"})


def _document(record: results_pb2.ResultRecord) -> dict[str, Any]:
    """The record as JSON-ready values: exactly one of ``analysis`` and ``error`` is no None."""
    from shared.wire.results import outcome_from_message

    outcome = outcome_from_message(record.outcome)
    return {
        "cursor": record.cursor,
        "device": record.device,
        "session": record.session,
        "sequence": record.sequence,
        "bundle_short_id": record.bundle_short_id.hex(),
        "state": record.state,
        "captured_at": _time(record, "captured_at"),
        "completed_at": _time(record, "completed_at"),
        "analysis": outcome.analysis.to_dict() if outcome.analysis is not None else None,
        "error": outcome.error.to_dict() if outcome.error is not None else None,
        "task_errors": {name: error.to_dict() for name, error in outcome.task_errors.items()},
    }


def _row(record: results_pb2.ResultRecord) -> tuple[str, ...]:
    return (
        str(record.cursor),
        record.device,
        record.session,
        str(record.sequence),
        str(record.state),
        _time(record, "captured_at") or "",
        _found(record),
    )


def _found(record: results_pb2.ResultRecord) -> str:
    """What was found, in words, or what went wrong."""
    from collections import Counter

    if record.outcome.HasField("error"):
        return f"error: {record.outcome.error.reason}"
    counts: Counter[str] = Counter()
    for task in record.outcome.analysis.tasks.values():
        for items in (task.detections, task.instances):
            counts.update(item.class_name for item in items)
        counts["face"] += len(task.faces)
        counts.update(item.class_name for item in task.classes[:1])
    words = [f"{count} {name}" for name, count in counts.most_common() if count]
    words += [f"{name}: {error.reason}" for name, error in record.outcome.task_errors.items()]
    return ", ".join(words)


def _time(record: results_pb2.ResultRecord, field: _TimeField) -> str | None:
    stamp = _stamp(record, field)
    return None if stamp is None else stamp.ToJsonString()


def _stamp(record: results_pb2.ResultRecord, field: _TimeField) -> Timestamp | None:
    if not record.HasField(field):
        return None
    return record.captured_at if field == "captured_at" else record.completed_at


# -- to sinks --------------------------------------------------------------------------------------


def _first_cursor(file: Path | None, after: int | None) -> int | None:
    """The cursor to go on from: the file's, else ``after``. Raises ``bad_option``."""
    if file is None or not file.exists():
        return after
    text = file.read_text(encoding="ascii", errors="replace").strip()
    if not text.isascii() or not text.isdigit():
        raise FeatherwireError("bad_option", f"{file} holds no cursor")
    return int(text)


def _deliver(
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
                report = _report_of(record)
                for pump in sinks.pumps:
                    while not pump.put(report, NOTE_EVERY_S):
                        note()
                if time.monotonic() - noted_at > NOTE_EVERY_S:
                    note()
        finally:
            sinks.close()
            note()


def _report_of(record: results_pb2.ResultRecord) -> Report:
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


def _seconds(record: results_pb2.ResultRecord, field: _TimeField) -> float | None:
    stamp = _stamp(record, field)
    return None if stamp is None else float(stamp.seconds) + stamp.nanos / 1e9


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
