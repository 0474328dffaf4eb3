"""featherwire-edge stream: a camera, a stream, a video or a folder to a server, for days."""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_client.cli.findings import report_of, tell_undelivered
from edge_client.cli.options import Sending
from edge_client.cli.reporter import write_line
from shared.cli import ExitCode, JsonLinesOption, finite, stop_on_error, takes
from shared.cli.exits import code_of
from shared.cli.output import print_error
from shared.errors import FeatherwireError, SessionError
from shared.names import text_of
from shared.words import counted

if TYPE_CHECKING:
    from edge_client.session import EdgeSession, FrameResult
    from edge_client.sources import MotionGate, Source
    from edge_client.sources.feed import Feed
    from edge_client.spool import Spool
    from shared.sinks import Pumps

DEFAULT_FPS = 1.0
SINK_CAPACITY = 1000
SINKS_S = 10.0
"""For the sinks, at the end of the source."""
SESSION_S = 10.0
"""For frames in flight, at the end of the source."""
LOOK_S = 0.5

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
        help="Move files there once they have a result or, with --spool, are kept in it, from "
        "where they go on by themselves; what fails stays.",
    ),
]
WindowOption = Annotated[
    int,
    typer.Option("--window", min=1, help="Frames under way at most, while there is a server."),
]
GraceOption = Annotated[
    float | None,
    typer.Option(
        "--grace",
        min=0,
        parser=finite("seconds", minimum=0),
        help="At the end: seconds to wait for results that are still to come, and for sinks. "
        "Default: 10 for sinks at the end of the source; 3 for all when it is told to end.",
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
    grace_s: GraceOption = None,
    status_every_s: EveryOption = 10.0,
    quiet: QuietOption = False,
    as_json: JsonLinesOption = False,
) -> None:
    """Send what a source shows until it ends, or until SIGTERM, SIGHUP or Ctrl-C; for days if need
    be.

    A source that fails is opened again, and a server that is away is tried again. Of a camera's
    pictures that come faster than they are sent the newest goes. With --spool frames that no
    server took outlast the end of this; without, they are kept for as long as it runs. Under
    nohup it goes on when its terminal is closed.

    Exit status 0 when everything was sent, or is in the spool; 1 when a file or the source failed,
    4 when frames were lost for want of a server, or it refuses this device.
    """
    access = sending.check(as_json=as_json)
    from edge_client.cli.ending import Ending
    from edge_client.cli.reporter import Reporter
    from edge_client.cli.status import Meter, Status, every, print_event
    from edge_client.session import SessionEvents
    from edge_client.sources import CaptureThread, SourceOptions, open_source
    from edge_client.sources.feed import Feed
    from edge_client.sources.spooled import SpooledFiles
    from shared.cli.moving import check_folder

    with stop_on_error(as_json=as_json), ExitStack() as stack:
        ending = stack.enter_context(Ending(grace_s))
        # Who gives up after three seconds does not wait ten for an answer.
        timeout_s = min(source_timeout_s, source_patience_s or math.inf)
        given = SourceOptions(live, loop, _pairs(inputs), timeout_s)
        opened = open_source(source, given)
        gate = _motion_gate(motion, motion_levels, still_every_s)
        if move_to is not None:
            check_folder(move_to)
        kept = sending.spool
        volatile = None if kept else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        reporter = Reporter(
            sending.server, kept, typed={**sending.typed, "--fps": fps}, quiet=quiet,
            event=print_event if as_json else None,
        )  # fmt: skip
        reporter.begin(opened.name)
        session, spool = sending.open(
            stack,
            access,
            fps or DEFAULT_FPS,
            volatile,
            events=SessionEvents(reporter.connection, reporter.setting),
            hurry=ending.stop,
            stream=True,
        )
        assert spool is not None
        sinks = stack.enter_context(sending.open_sinks(session, SINK_CAPACITY))
        captures = CaptureThread(
            opened,
            limit=lambda: _least(fps, session.control.policy.max_frames_per_second),
            patience_s=math.inf if source_patience_s is None else source_patience_s,
        )
        ending.then(captures.stop)
        meter = Meter()

        def unreadable(name: str, error: FeatherwireError) -> None:
            meter.failed(error.to_dict())
            if as_json:
                print_event("unreadable", {"file": name, "error": error.to_dict()})
            _tell_error(name, error)

        spooled = SpooledFiles(_frames_of(spool))
        # Before any of their results is taken, with which the spool forgets a frame.
        for file in spooled.files(opened) if move_to is not None else ():
            if not _move(file, move_to):
                spooled.put_back(file)
        feed = Feed(captures, gate, ending.stop, unreadable, spooled, lambda f: _move(f, move_to))
        status = Status(meter, captures, feed, session, spool, sinks)
        stack.enter_context(_shown(status, as_json, quiet, status_every_s))
        stack.enter_context(every(LOOK_S, lambda: reporter.look(captures)))
        lines = not (as_json or quiet or sys.stderr.isatty() or sending.to)
        with captures:
            photos = _until_refused(feed, session)
            results = session.stream(photos, window=window, hurry=ending.hurry, **sending.rate)
            with closing(results):  # before the spool is, when nobody reads what is printed
                for result in results:
                    meter.result(result)
                    # First, and before the spool forgets the frame, which it does with the next
                    # result: after a kill between the two the file would be sent again.
                    _settle(result, feed, move_to, durable=kept is not None)
                    _tell(result, session, sinks, as_json=as_json, lines=lines)
        if (refusal := session.refusal) is not None:
            print_error(refusal, as_json=as_json)
        sinks.close(ending.left_s(SINKS_S))
        end = status.read()
        failure = captures.error if captures.state == "failed" else None
        session.close(ending.left_s(SESSION_S))
    lost = tell_undelivered(sinks)
    reporter.end(end)
    for error in filter(None, (failure, None if kept else _lost(end))):
        print_error(error, as_json=as_json)
    if as_json:
        print_event("end", end)
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
    """End the command with its exit status; errors were printed."""
    left = end["queue"]["frames"]
    if left and spooled:
        write_line(sys.stderr, f"{counted(left, 'frame is', 'frames are')} kept in the spool")
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


def _lost(end: dict[str, Any]) -> FeatherwireError | None:
    """What is said of frames that wait at the end, where there is no spool."""
    left = end["queue"]["frames"]
    if not left:
        return None
    lost, them = counted(left, "frame is", "frames are"), "it" if left == 1 else "them"
    return SessionError("frames_lost", f"{lost} lost: no server took {them}, and no --spool")


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
        write_line(sys.stdout, line(report))
    if result.error is not None and not as_json:
        _tell_error(report.source, result.error)


def _tell_error(what: str, error: FeatherwireError) -> None:
    write_line(sys.stderr, f"error: {what}: {error.message} [{error.reason}]")


def _settle(result: FrameResult, feed: Feed, move_to: Path | None, *, durable: bool) -> None:
    """Move the file of a result away; a frame that is in the spool is as good as sent."""
    file = feed.file_of(str(result.source))
    kept = result.error is not None and result.error.reason == "spooled"
    if file is not None and (result.error is None or (kept and durable)):
        _move(file, move_to)


def _move(file: Path, move_to: Path | None) -> bool:
    """Move a file away, where that is wanted; returns whether it was moved."""
    from shared.cli.moving import move

    if move_to is None:
        return False
    try:
        move(file, move_to)
    except OSError as error:
        name = text_of(file)
        write_line(sys.stderr, f"error: {name} cannot be moved: {error.strerror} [io_error]")
        return False
    return True


def _frames_of(spool: Spool) -> Iterator[tuple[str, float]]:
    """Source and time of the frames in a spool that have no result yet."""
    captured = spool.captured()
    for sequence, source in (spool.queued() | spool.awaited()).items():
        if sequence in captured:
            yield source, captured[sequence]


def _until_refused(feed: Feed, session: EdgeSession) -> Iterator[Any]:
    for photo in feed:
        yield photo
        if session.refusal is not None:
            return


@contextmanager
def _shown(status: Any, as_json: bool, quiet: bool, every_s: float) -> Iterator[None]:
    from edge_client.cli.status import can_redraw, every, live_table, print_event, print_progress

    with contextlib.ExitStack() as stack:
        if as_json:
            stack.enter_context(every(every_s, lambda: print_event("status", status.read())))
        elif not quiet and sys.stderr.isatty():
            if can_redraw():
                stack.enter_context(live_table(status.read))
            else:
                stack.enter_context(every(every_s, lambda: print_progress(status.read())))
        yield


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
