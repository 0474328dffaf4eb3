"""featherwire-cloud results: what a server found, and the frames behind it."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloud_server.cli.options import Call, DecoderOption, SeedOption, calls
from shared.cli import (
    JsonLinesOption,
    finite,
    print_document,
    print_line,
    print_list,
    print_table,
    stop_on_error,
    takes,
    write_atomically,
)
from shared.errors import FeatherwireError

if TYPE_CHECKING:
    from cloud_server.consumers import Result, ResultClient

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

    def filter(self) -> dict[str, Any]:
        """Which results are meant: arguments of a client."""
        return {
            "device": self.device or (),
            "session": self.session or (),
            "tasks": self.task or (),
            "classes": self.class_name or (),
        }


@dataclass(frozen=True)
class Watching(Filtering):
    """A call about some results that goes on. Each field is an option."""

    as_json: JsonLinesOption = False


@takes(Filtering)
def list_results(
    call: Filtering,
    after: Annotated[
        int, typer.Option("--after", min=0, max=2**62, help="Only results after this cursor.")
    ] = 0,
    since: Annotated[
        str | None,
        typer.Option(
            "--since",
            metavar="TIME",
            help="Only results that were ready then or later: 2026-05-03, 2026-05-03T10:00 (in "
            "this machine's zone), 2026-05-03T10:00Z, or so long ago: 90s, 15m, 2h, 7d.",
        ),
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME", help="Only those ready before then.")
    ] = None,
    newest_first: Annotated[
        bool, typer.Option("--newest-first", help="With --limit 20: the last twenty.")
    ] = False,
) -> None:
    """List the results that are in the log, oldest first."""
    with stop_on_error(as_json=call.as_json), _client(call) as client:
        found = client.list(
            **call.filter(),
            since=_instant("--since", since),
            until=_instant("--until", until),
            after=after,
            newest_first=newest_first,
        )
        chosen = _first(found, call.limit)
        if call.as_json:
            print_list("results", (result.to_dict() for result in chosen))
        else:
            _print(chosen)


@calls
def get(
    call: Call,
    key: FrameArgument,
) -> None:
    """Print one result, by its cursor, or the newest of a frame."""
    with stop_on_error(as_json=call.as_json), _client(call) as client:
        result = _get(client, key)
        if call.as_json:
            print_document(result.to_dict())
        else:
            _print([result])


@takes(Watching)
def watch(
    call: Watching,
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
        if cursor_file is not None and not to:
            raise FeatherwireError("bad_option", "--cursor-file is for results that go --to sinks")
        after = _first_cursor(cursor_file, after)
        results = client.watch(**call.filter(), after=after, patience_s=patience_s)
        if to:
            _deliver(_first(results, call.limit), to, cursor_file, give_up_s)
            return
        for result in _first(results, call.limit):
            if call.as_json:
                print_line(result.to_dict())
            else:
                print("  ".join(_row(result)), flush=True)


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
    decoder: DecoderOption = None,
    seed: SeedOption = 0,
) -> None:
    """Save a frame's features as they were received, or cut: no picture is encoded again.

    A predicted frame becomes a key frame, with the same values, so that its file stands alone.
    """
    from shared.bundle import Bundle
    from shared.cli import rate_record
    from shared.wire import PictureRequest

    if decoder is not None and not picture:
        raise typer.BadParameter("is for pictures: use --picture too", param_hint="--decoder")
    wished = PictureRequest(decoder=decoder or "", seed=seed) if picture else None
    with stop_on_error(as_json=call.as_json):
        bundle_id = "" if bundle is None else Bundle.load(bundle).short_id.hex()
        with _client(call) as client:
            bitstream, made = client.frame(
                _get(client, key) if len(key) == 1 else _frame_key(key),
                state=state,
                max_bytes=max_bytes,
                bundle=bundle_id,
                picture=wished,
            )
        if state is not None and bitstream.state > state:
            typer.echo(
                f"warning: the frame was sent at state {bitstream.state}, no finer: that is what "
                f"there is of it, not state {state}",
                err=True,
            )
        write_atomically(output, bitstream.to_bytes())
        record: dict[str, Any] = {"file": str(output), **rate_record(bitstream)}
        if made is not None:
            record["picture"] = str(output.with_suffix(".png"))
            write_atomically(output.with_suffix(".png"), made.data)
    if call.as_json:
        print_document(record)
    else:
        print("\n".join(f"{name} {value}" for name, value in record.items() if value is not None))


# -- parts ---------------------------------------------------------------------------------------


def _client(call: Call) -> ResultClient:
    way = call.access()
    from cloud_server.consumers import ResultClient

    return ResultClient(call.server, way)


def _get(client: ResultClient, key: list[str]) -> Result:
    if len(key) == 1:
        return client.get(_number("CURSOR", key[0]))
    return client.get(frame=_frame_key(key))


def _frame_key(key: list[str]) -> tuple[str, str, int]:
    if len(key) != 3:
        raise FeatherwireError("bad_option", "name it as CURSOR, or as DEVICE SESSION SEQUENCE")
    device, session, sequence = key
    return device, session, _number("SEQUENCE", sequence)


def _number(name: str, text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 2**63:
        raise FeatherwireError("bad_option", f"{name} is a number from 1 on, not {text}")
    return int(text)


def _first(results: Iterable[Result], limit: int | None) -> Iterable[Result]:
    for number, result in enumerate(results, start=1):
        yield result
        if number == limit:
            return


def _print(results: Iterable[Result]) -> None:
    rows = [_row(result) for result in results]
    print_table(_COLUMNS, rows, right={"cursor", "frame", "state"}, unbroken={"cursor"})


def _row(result: Result) -> tuple[str, ...]:
    values = result.to_dict()
    names = ("cursor", "device", "session", "sequence", "state", "captured_at")
    return (*("" if values[name] is None else str(values[name]) for name in names), result.found)


_AGO = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def _instant(option: str, text: str | None) -> datetime | None:
    """A date, a time, or so long ago. Raises FeatherwireError ``bad_option``."""
    if text is None:
        return None
    try:
        if (ago := _AGO.fullmatch(text.strip())) is not None:
            return datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: float(ago[1])})
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError, OSError):
        raise FeatherwireError(
            "bad_option", f"{option}: {text!r} is no time such as 2026-05-03T10:00 or 2h (ago)"
        ) from None


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
    results: Iterable[Result],
    to: list[str],
    cursor_file: Path | None,
    give_up_s: float | None = None,
) -> None:
    """Bring every result to every sink. One that is slow, or away, lets all wait: the server then
    cuts this consumer off, which comes back to where it was. give_up_s: of a record that a sink
    does not take. Raises SinkError."""
    from cloud_server.consumers.reports import report_of
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
            for result in results:
                report = report_of(result)
                for pump in sinks.pumps:
                    while not pump.put(report, NOTE_EVERY_S):
                        note()
                if time.monotonic() - noted_at > NOTE_EVERY_S:
                    note()
        finally:
            sinks.close()
            note()


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
