"""featherwire-edge stream: a camera, a stream, a video or a folder to a server, for days."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_client.cli.findings import report_of, tell_undelivered
from edge_client.cli.options import Sending
from shared.cli import ExitCode, finite, stop_on_error, takes
from shared.cli.exits import code_of
from shared.errors import FeatherwireError
from shared.names import printable, text_of

if TYPE_CHECKING:
    from edge_client.session import EdgeSession, FrameResult
    from edge_client.sources import CaptureThread, MotionGate, Source
    from edge_client.sources.feed import Feed
    from shared.sinks import Pumps

DEFAULT_FPS = 1.0
SINK_CAPACITY = 1000
ONE_SIGNAL_S = 0.5
"""A terminal, or `timeout`, may send the same signal twice: to the process, and to its group."""

SourceArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        envvar="FEATHERWIRE_SOURCE",
        help="A folder (watched), files or a glob, a video file, rtsp://..., http://... (Motion "
        "JPEG, or a snapshot), v4l2:/dev/video0, or - (JPEGs on standard input).",
    ),
]
FpsOption = Annotated[
    float | None,
    typer.Option(
        "--fps",
        min=0.001,
        parser=finite("frames a second", minimum=0.001),
        help="At most so many frames a second. Default: all that the source gives.",
    ),
]
MotionOption = Annotated[
    float | None,
    typer.Option(
        "--motion",
        metavar="PERCENT",
        min=0,
        max=100,
        parser=finite("percent of the picture", minimum=0),
        help="Leave out pictures of which at most so many percent differ from the last one sent; "
        "0.2 sees a person far away.",
    ),
]
MotionLevelsOption = Annotated[
    float,
    typer.Option(
        "--motion-levels",
        min=0,
        parser=finite("grey levels", minimum=0),
        help="With --motion: a part differs when it is off by more grey levels (of 255) than this.",
    ),
]
StillOption = Annotated[
    float,
    typer.Option(
        "--still-every",
        min=0,
        parser=finite("seconds", minimum=0),
        help="With --motion: send a picture every so many seconds though nothing moves; 0: do not.",
    ),
]
LiveOption = Annotated[
    bool,
    typer.Option(
        "--live",
        help="Read a video file or standard input at its own speed, as a camera: of pictures that "
        "come faster than they are sent, the newest goes.",
    ),
]
LoopOption = Annotated[bool, typer.Option("--loop", help="Repeat files and videos for ever.")]
InputOption = Annotated[
    list[str] | None,
    typer.Option(
        "--input",
        metavar="NAME=VALUE",
        help="An option of FFmpeg's for the source, such as video_size=1280x720 or "
        "rtsp_transport=udp. May be repeated.",
    ),
]
SourceTimeoutOption = Annotated[
    float,
    typer.Option(
        "--source-timeout",
        min=0.1,
        parser=finite("seconds", minimum=0.1),
        help="Seconds without a byte, or a video's picture, after which a stream is opened again.",
    ),
]
PatienceOption = Annotated[
    float | None,
    typer.Option(
        "--source-patience",
        min=0,
        parser=finite("seconds", minimum=0),
        help="Give up after so many seconds without a picture. Default: never.",
    ),
]
MoveOption = Annotated[
    Path | None,
    typer.Option(
        "--move-to",
        metavar="FOLDER",
        help="Move files there once they have a result; what fails stays.",
    ),
]
WindowOption = Annotated[
    int,
    typer.Option("--window", min=1, help="Frames under way at most, while there is a server."),
]
GraceOption = Annotated[
    float,
    typer.Option(
        "--grace",
        min=0,
        parser=finite("seconds", minimum=0),
        help="At the end: seconds to wait for results that are still to come.",
    ),
]
EveryOption = Annotated[
    float,
    typer.Option(
        "--status-every",
        min=0.1,
        parser=finite("seconds", minimum=0.1),
        help="With --json: seconds between two status lines.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
JsonLinesOption = Annotated[
    bool, typer.Option("--json", help="Print a JSON document a line: results, status, the end.")
]


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("stream")(stream)


@takes(Sending)
def stream(
    sending: Sending,
    source: SourceArgument,
    fps: FpsOption = None,
    motion: MotionOption = None,
    motion_levels: MotionLevelsOption = 10.0,
    still_every_s: StillOption = 60.0,
    live: LiveOption = False,
    loop: LoopOption = False,
    inputs: InputOption = None,
    source_timeout_s: SourceTimeoutOption = 10.0,
    source_patience_s: PatienceOption = None,
    move_to: MoveOption = None,
    window: WindowOption = 8,
    grace_s: GraceOption = 10.0,
    status_every_s: EveryOption = 10.0,
    quiet: QuietOption = False,
    as_json: JsonLinesOption = False,
) -> None:
    """Send what a source shows until it ends, or until SIGTERM or Ctrl-C; for days if need be.

    A source that fails is opened again, and a server that is away is tried again. Of a camera's
    pictures that come faster than they are sent the newest goes. With --spool frames that no
    server took outlast the end of this; without, they are kept for as long as it runs.

    Exit status 0 when everything was sent, or is in the spool; 1 when a file or the source failed,
    4 when frames were lost for want of a server, or it refuses this device.
    """
    from edge_client.cli.status import Meter, Status, print_event
    from edge_client.sources import CaptureThread, SourceOptions, open_source
    from edge_client.sources.feed import Feed
    from edge_client.sources.moving import check_folder

    access = sending.check()
    stop = threading.Event()
    with stop_on_error(as_json=as_json), ExitStack() as stack:
        given = SourceOptions(live, loop, _pairs(inputs), source_timeout_s)
        opened = open_source(source, given)
        gate = _motion_gate(motion, motion_levels, still_every_s)
        if move_to is not None:
            check_folder(move_to)
        kept = sending.spool
        volatile = None if kept else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        session, spool = sending.open(stack, access, fps or DEFAULT_FPS, volatile)
        assert spool is not None
        sinks = stack.enter_context(sending.open_sinks(session, SINK_CAPACITY))
        captures = CaptureThread(
            opened,
            limit=lambda: _least(fps, session.control.policy.max_frames_per_second),
            patience_s=math.inf if source_patience_s is None else source_patience_s,
        )
        meter = Meter()

        def unreadable(name: str, error: FeatherwireError) -> None:
            meter.failed(error.to_dict())
            what = printable(error.message)
            sys.stderr.write(f"error: {printable(name)}: {what} [{error.reason}]\n")

        feed = Feed(captures, gate, stop, unreadable)
        status = Status(meter, captures, feed, session, spool, sinks)
        hurry = stack.enter_context(_signals(stop, captures, grace_s))
        stack.enter_context(_shown(status, as_json, quiet, status_every_s))
        lines = not (as_json or quiet or sys.stderr.isatty() or sending.to)
        with captures:
            photos = _until_refused(feed, session)
            for result in session.stream(photos, window=window, hurry=hurry, **sending.rate):
                meter.result(result)
                _tell(result, session, sinks, as_json=as_json, lines=lines)
                _settle(result, feed, move_to, durable=kept is not None)
        sinks.close(grace_s)
        end = status.read()
        refusal, failure = session.refusal, captures.error
        failure = failure if captures.state == "failed" else None
    if as_json:
        print_event("end", end)
    lost = tell_undelivered(sinks)
    _exit(end, opened, refusal, failure, lost, spooled=kept is not None)


# -- parts ---------------------------------------------------------------------------------------


def _exit(
    end: dict[str, Any],
    source: Source,
    refusal: FeatherwireError | None,
    failure: FeatherwireError | None,
    undelivered: int,
    *,
    spooled: bool,
) -> None:
    """End the command with its exit status, and print why it is not 0."""
    left = end["queue"]["frames"]
    for error in (refusal, failure):
        if error is not None:
            sys.stderr.write(f"error: {error.message} [{error.reason}]\n")
    if left and spooled:
        sys.stderr.write(f"{left} frames are kept in the spool\n")
    elif left:
        sys.stderr.write(f"error: {left} frames are lost: no server took them, and no --spool\n")
    if refusal is not None or (left and not spooled):
        raise typer.Exit(ExitCode.UNREACHABLE)
    if failure is not None:
        # What a camera answers is no wrong usage, after which a service is not started again.
        code = code_of(failure)
        raise typer.Exit(ExitCode.SOME_FAILED if code == ExitCode.USAGE else code)
    # Of a camera that runs for days a picture may be damaged; a file that failed is reported.
    failed = end["failed"] + end["dropped"].get("unreadable", 0)
    if (failed and not source.live) or (undelivered and not source.lasting):
        raise typer.Exit(ExitCode.SOME_FAILED)


def _tell(
    result: FrameResult, session: EdgeSession, sinks: Pumps, *, as_json: bool, lines: bool
) -> None:
    from edge_client.cli.status import print_event
    from shared.sinks.files import line

    if result.error is not None and result.error.reason == "spooled":
        return
    report = report_of(result, session)
    sinks.put(report)
    if as_json:
        print_event("result", report.to_dict())
    elif lines:
        print(line(report), flush=True)
    if result.error is not None and not as_json:
        error = result.error
        where, what = printable(report.source), printable(error.message)
        sys.stderr.write(f"error: {where}: {what} [{error.reason}]\n")


def _settle(result: FrameResult, feed: Feed, move_to: Path | None, *, durable: bool) -> None:
    """Move the file of a result away; a frame that is in the spool is as good as sent."""
    from edge_client.sources.moving import move

    file = feed.file_of(str(result.source))
    kept = result.error is not None and result.error.reason == "spooled"
    if file is None or move_to is None or (result.error is not None and not (kept and durable)):
        return
    try:
        move(file, move_to)
    except OSError as error:
        name = printable(text_of(file))
        sys.stderr.write(f"error: {name} cannot be moved: {error.strerror} [io_error]\n")


def _until_refused(feed: Feed, session: EdgeSession) -> Iterator[Any]:
    for photo in feed:
        yield photo
        if session.refusal is not None:
            return


@contextmanager
def _shown(status: Any, as_json: bool, quiet: bool, every_s: float) -> Iterator[None]:
    from edge_client.cli.status import every, live_table, print_event

    with contextlib.ExitStack() as stack:
        if as_json:
            stack.enter_context(every(every_s, lambda: print_event("status", status.read())))
        elif not quiet and sys.stderr.isatty():
            stack.enter_context(live_table(status.read))
        yield


@contextmanager
def _signals(
    stop: threading.Event, captures: CaptureThread, grace_s: float
) -> Iterator[threading.Event]:
    """SIGTERM and SIGINT end the source; so much later, or with a second one, nothing is waited
    for any more, which the event says."""
    hurry = threading.Event()
    timer = threading.Timer(grace_s, hurry.set)
    timer.daemon = True
    first_at = 0.0

    def end(number: int, frame: object) -> None:
        nonlocal first_at
        if not stop.is_set():
            first_at = time.monotonic()
            stop.set()
            captures.stop()
            timer.start()
        elif time.monotonic() - first_at > ONE_SIGNAL_S:
            hurry.set()

    before = {number: signal.signal(number, end) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield hurry
    finally:
        timer.cancel()
        for number, handler in before.items():
            signal.signal(number, handler)


def _motion_gate(percent: float | None, levels: float, still_every_s: float) -> MotionGate | None:
    from edge_client.sources import MotionGate

    if percent is None:
        return None
    if percent > 100:
        raise typer.BadParameter("it is percent, 0 to 100", param_hint="--motion")
    return MotionGate(percent / 100, levels, still_every_s or math.inf)


def _pairs(words: list[str] | None) -> dict[str, str]:
    pairs = [word.partition("=") for word in words or ()]
    for name, equals, _ in pairs:
        if not name or not equals:
            raise typer.BadParameter("it is NAME=VALUE", param_hint="--input")
    return {name: value for name, _, value in pairs}


def _least(*limits: float | None) -> float | None:
    known = [limit for limit in limits if limit is not None]
    return min(known) if known else None
