"""featherwire-cloud loadtest: simulated devices on a server."""

from __future__ import annotations

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cloud_server.cli.options import Call, calls
from shared.cli import (
    ExitCode,
    finite,
    print_document,
    print_table,
    split_names,
    stop_on_error,
)
from shared.errors import FeatherwireError, SessionError
from shared.words import counted

if TYPE_CHECKING:
    import asyncio

    from cloud_server.loadtest import LoadTest, Report
    from cloud_server.loadtest.device import OpenChannel
    from cloud_server.loadtest.run import Progress
    from cloud_server.loadtest.tally import Tally


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("loadtest")(loadtest)


@calls
def loadtest(
    call: Call,
    devices: Annotated[
        int,
        typer.Option(
            "--devices", min=1, max=100_000, help="How many devices, each with its own session."
        ),
    ],
    fps: Annotated[
        float,
        typer.Option(
            "--fps",
            parser=finite("frames a second", minimum=0),
            help="Frames a second of each device; 0: as fast as the server gives credit.",
        ),
    ] = 1.0,
    seconds: Annotated[
        float,
        typer.Option(
            "--seconds",
            parser=finite("seconds", minimum=0.1),
            help="Seconds of measurement, with all devices on.",
        ),
    ] = 30.0,
    ramp_s: Annotated[
        float,
        typer.Option(
            "--ramp", parser=finite("seconds", minimum=0), help="Seconds until all are on."
        ),
    ] = 5.0,
    grace_s: Annotated[
        float,
        typer.Option(
            "--grace",
            parser=finite("seconds", minimum=0),
            help="Seconds to wait at the end for a word of the server: frames without a result "
            "then are lost. A busy one says every 5 s that it has them.",
        ),
    ] = 60.0,
    files: Annotated[
        list[Path] | None,
        typer.Option(
            "--file",
            metavar="STREAM.fwf",
            help="What is sent, in turn; may be repeated. Default: three photos at 0.1 bits a "
            "pixel, by the packaged picture bundle.",
        ),
    ] = None,
    tasks: Annotated[
        str,
        typer.Option(
            "--tasks",
            metavar="NAME,NAME",
            help="Tasks to run on each frame; with `none` frames are only stored.",
        ),
    ] = "detection",
    device: Annotated[
        str | None,
        typer.Option("--device", help="With --token-file: the device that the token names."),
    ] = None,
    tokens: Annotated[
        Path | None,
        typer.Option("--tokens", help="File of lines `DEVICE TOKEN`, one of each device."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Allow a server on another machine.")] = False,
) -> None:
    """Find out how much a server takes: simulated devices replay real streams.

    Each has its own connection and session, honours credits, and connects again when it loses the
    server; a frame that is due without credit is skipped. Reported are frames a second, the times
    to ack and to result, errors by reason, and whether every frame got exactly one result.

    A server with --insecure takes any device. Others want tokens: those of --tokens, each for its
    device, or one of --token-file, whose device then has all the sessions and one quota.

    SIGTERM or Ctrl-C ends it early: nothing more is sent, what is open has four seconds, and what
    was measured is reported. A second one stops at once.

    Exit status 1 when frames were lost or doubled, or devices were refused; 4 without a server.
    """
    import asyncio

    with stop_on_error(as_json=call.as_json):
        _check_target(call.server, yes)
        callers = _callers(call, device, tokens, devices)
        from cloud_server.loadtest import LoadTest, run_load_test
        from cloud_server.loadtest.device import load_streams

        streams = load_streams(files or ())
        test = LoadTest(devices, fps, seconds, ramp_s, grace_s, split_names(tasks))
        _allow_sockets(devices)
        sys.stderr.write(
            f"warming up: {counted(devices, 'device')} within {ramp_s:g} s; after that "
            f"{seconds:g} s are measured\n"
        )

        async def run() -> Report:
            with _ended_by_signals() as enough:
                return await run_load_test(test, callers, streams, _progress(test), enough)

        try:
            report = asyncio.run(run())
        except asyncio.CancelledError:
            raise typer.Exit(ExitCode.INTERRUPTED) from None
        if report.connections == 0:
            reason = next(iter(report.stream_errors), "unreachable")
            raise SessionError(reason, f"no device got a session at {call.server}")
    if call.as_json:
        print_document(report.to_dict())
    else:
        _print(report)
    if not report.whole:
        raise typer.Exit(ExitCode.SOME_FAILED)


# -- parts ---------------------------------------------------------------------------------------


def _check_target(server: str, yes: bool) -> None:
    from shared.rpc.access import is_loopback

    if not yes and not is_loopback(server):
        raise FeatherwireError(
            "bad_option",
            f"{server} is not on this machine: with --yes it is put under load all the same",
        )


def _callers(
    call: Call, device: str | None, tokens: Path | None, devices: int
) -> list[tuple[str, OpenChannel]]:
    """Name of each device, and how it connects. Raises ``FeatherwireError``."""
    from dataclasses import replace

    access = call.access()
    from cloud_server.loadtest.device import opener

    if tokens is not None:
        pairs = _read_tokens(tokens)
        return [(name, opener(call.server, replace(access, token=token))) for name, token in pairs]
    if access.token is not None and device is None:
        raise FeatherwireError("bad_option", "a token is of one device: name it with --device")
    open_channel = opener(call.server, access)
    if access.token is not None and device is not None:
        return [(device, open_channel)]
    prefix = device or "load"
    return [(f"{prefix}-{number}", open_channel) for number in range(devices)]


def _read_tokens(path: Path) -> list[tuple[str, str]]:
    """Raises ``SessionError("bad_token_file")``, which never repeats what the file holds."""
    from shared.cli import read_file

    lines = [line.split() for line in read_file(path).decode("ascii", "replace").splitlines()]
    pairs = [(words[0], words[1]) for words in lines if len(words) == 2]
    if not pairs or len(pairs) != sum(map(bool, lines)):
        raise SessionError("bad_token_file", f"{path} does not hold lines of DEVICE TOKEN")
    return pairs


def _allow_sockets(devices: int) -> None:
    """Each device is a socket or two; systems allow 1024 by default, and more when asked."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3 * devices + 256
    if hard != resource.RLIM_INFINITY:
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextmanager
def _ended_by_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM and SIGINT set; a second one cancels the task that is in here."""
    import asyncio

    loop, task, enough = asyncio.get_running_loop(), asyncio.current_task(), asyncio.Event()

    def end() -> None:
        if enough.is_set() and task is not None:
            task.cancel()
        enough.set()

    numbers = (signal.SIGTERM, signal.SIGINT)
    for number in numbers:
        loop.add_signal_handler(number, end)
    try:
        yield enough
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


def _progress(test: LoadTest) -> Progress:
    def show(elapsed_s: float, tally: Tally) -> None:
        if sys.stderr.isatty():
            open_ = tally.sent - tally.results
            phase = "" if tally.measuring else "not measured now, "
            sys.stderr.write(
                f"\r\x1b[K{elapsed_s:.0f} s: {phase}{tally.connected}/{test.devices} devices, "
                f"{tally.results} results, {open_} open"
            )
            sys.stderr.flush()

    return show


def _print(report: Report) -> None:
    if sys.stderr.isatty():
        sys.stderr.write("\r\x1b[K")
    rows = [
        ["frames a second", f"{report.frames_per_second:g}"],
        ["bytes a second", f"{report.bytes_per_second:.0f}"],
        ["ms to ack", _times(report.ack_ms)],
        ["ms to result", _times(report.result_ms)],
        ["frames sent", str(report.sent)],
        ["with one result", str(report.results)],
        ["lost / doubled", f"{report.lost} / {report.doubled}"],
        ["skipped for want of credit", str(report.skipped)],
        ["sent again", str(report.sent_again)],
        ["connections", str(report.connections)],
        ["devices refused", str(report.gave_up)],
        ["frame errors", _counts(report.frame_errors)],
        ["stream errors", _counts(report.stream_errors)],
        ["this test was late, ms", _times(report.own_lag_ms)],
    ]
    title = f"{report.devices} devices, {report.seconds:g} s"
    print_table(["measured", "value"], rows, title=title)
    if report.hint is not None:
        print(report.hint)


def _times(found: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in found.items()) or "-"


def _counts(found: dict[str, int]) -> str:
    return ", ".join(f"{reason} {count}" for reason, count in found.items()) or "none"
