"""featherwire-edge send and flush: photos, or what a spool holds, to a server; findings back."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_client.cli.findings import COLUMNS, report_of, take_all, tell_kept, tell_undelivered
from edge_client.cli.options import (
    Calling,
    FramesPerSecondOption,
    OutputOption,
    Sending,
)
from edge_client.cli.reporter import Reporter
from shared.cli import Batch, ExitCode, JsonOption, Outcome, stop_on_error, takes
from shared.names import text_of

if TYPE_CHECKING:
    from edge_client.session import CapturedPhoto, EdgeSession, FrameResult
    from shared.sinks import Pumps

SINK_CAPACITY = 10_000


def register(app: typer.Typer) -> None:
    """Add the commands to ``app``."""
    app.command("send")(send)
    app.command("flush")(flush)


@takes(Sending)
def send(
    sending: Sending,
    photos: Annotated[list[Path], typer.Argument(help="Photos, or .fwf files, any number.")],
    picture: Annotated[
        bool, typer.Option("--picture", help="Fetch the reconstructions too (needs -o).")
    ] = False,
    decoder: Annotated[
        str | None,
        typer.Option(
            "--decoder",
            metavar="NAME",
            help="With --picture: which of the bundle's decoders makes them. Default: its first.",
        ),
    ] = None,
    output: OutputOption = None,
    frames_per_second: FramesPerSecondOption = 1.0,
    as_json: JsonOption = False,
) -> None:
    """Send photos as features; print what the server finds in them.

    As many photos are in flight as the server gives credits for. A photo that fails is reported
    and the rest go on. Where the server asks for more of a photo, what it finds then is a further
    line, saved as DIR/STEM.refined.json. With --picture each reconstruction is saved as
    DIR/STEM.png. When the server goes away, what came back is printed and saved all the same, and
    the rest are failures; or, with --spool, they are kept there, and the next `send` or `flush`
    with that spool delivers them.
    """
    if picture and output is None:
        raise typer.BadParameter("--picture needs a folder", param_hint="-o")
    if decoder is not None and not picture:
        raise typer.BadParameter("is for pictures: use --picture too", param_hint="--decoder")
    access = sending.check(as_json=as_json)
    from edge_client.session import SessionEvents
    from shared.wire import PictureRequest

    wished = PictureRequest(decoder=decoder or "") if picture else None
    batch = Batch(as_json=as_json, columns=COLUMNS)
    outcome = Outcome()
    with stop_on_error(as_json=as_json), ExitStack() as stack:
        reporter = Reporter(sending.server, sending.spool, typed=sending.typed, quiet=True)
        events = SessionEvents(reporter.connection, reporter.setting)
        session, _ = sending.open(stack, access, frames_per_second, events=events)
        sinks = stack.enter_context(sending.open_sinks(session, SINK_CAPACITY))
        results = session.stream(_dated(photos), picture=wished, **sending.rate)
        ended = take_all(_through_sinks(results, session, sinks), photos, output, batch, outcome)
        refusal = session.refusal
    # What an earlier run has spooled comes first.
    order = {text_of(path): number for number, path in enumerate(photos)}
    outcome.results.sort(key=lambda r: (order.get(r["photo"], -1), r["refined"]))
    outcome.failures.sort(key=lambda r: order.get(r["file"], -1))
    if sending.spool is not None:
        tell_kept(outcome, sending.spool, sending.server, refusal)
    try:
        batch.report(outcome)
    except typer.Exit:
        if ended is None:
            raise
    if ended is not None or refusal is not None:
        raise typer.Exit(ExitCode.UNREACHABLE)
    task_failed = any("task_errors" in one or "picture_error" in one for one in outcome.results)
    if tell_undelivered(sinks) or task_failed:
        raise typer.Exit(ExitCode.SOME_FAILED)


@takes(Calling)
def flush(
    calling: Calling,
    spool: Annotated[
        Path,
        typer.Option(
            "--spool",
            metavar="FOLDER",
            exists=True,
            file_okay=False,
            help="Where `send --spool` kept frames.",
        ),
    ],
    output: OutputOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deliver the frames that `send --spool FOLDER` kept; print what the server finds in them.

    They go as the device that kept them, whatever this machine is called.

    Exit status 4 when frames are still kept afterwards, because no server took them.
    """
    access = calling.checked_access(as_json=as_json)
    from edge_client.rate import RateControl
    from edge_client.session import EdgeSession, SessionEvents
    from edge_client.spool import Spool

    batch = Batch(as_json=as_json, columns=COLUMNS)
    outcome = Outcome()
    with stop_on_error(as_json=as_json), ExitStack() as stack:
        store = stack.enter_context(Spool.open(spool))
        calling.name(store)
        if not store.queued() and not store.awaited():
            sys.stderr.write(f"{spool} is empty: there is nothing to deliver\n")
            batch.report(outcome)
            return
        session = EdgeSession(
            calling.server,
            device=calling.device,
            access=access,
            connect_timeout_s=calling.timeout_s,
            deadline_s=calling.deadline_s,
            spool=store,
            control=RateControl(calling.bandwidth),
            events=SessionEvents(Reporter(calling.server, spool, quiet=True).connection),
        )
        stack.enter_context(session)
        ended = take_all(session.flush(), [], output, batch, outcome)
        refusal = session.refusal
    tell_kept(outcome, spool, calling.server, refusal)
    batch.report(outcome)
    if ended is not None or refusal is not None or outcome.kept:
        raise typer.Exit(ExitCode.UNREACHABLE)


def _dated(photos: Sequence[Path]) -> Iterator[CapturedPhoto]:
    """The photos, with when each was taken, as `stream` says it too."""
    from edge_client.session import CapturedPhoto, Origin
    from edge_client.sources.stills import photo_time

    for path in photos:
        yield CapturedPhoto(path, Origin(text_of(path), photo_time(path)))


def _through_sinks(
    results: Iterator[FrameResult], session: EdgeSession, sinks: Pumps
) -> Iterator[FrameResult]:
    """The results, each of which goes to the sinks too."""
    for result in results:
        if result.error is None or result.error.reason != "spooled":
            sinks.put(report_of(result, session))
        yield result
