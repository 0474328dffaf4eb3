"""featherwire-edge send: photos to a server, findings and pictures back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from edge_client.cli.encode import (
    BestEffortOption,
    BppOption,
    BytesOption,
    JsonOption,
    PsnrOption,
    RegionOption,
    StateOption,
)
from edge_client.cli.findings import COLUMNS, take_all, tell_kept
from edge_client.cli.options import (
    BandwidthOption,
    DeadlineOption,
    DeviceOption,
    FramesPerSecondOption,
    OutputOption,
    ServerOption,
    SpoolAgeOption,
    SpoolBytesOption,
    SpoolOption,
    SpoolPolicyOption,
    TimeoutOption,
    TlsCaOption,
    TlsCertificateOption,
    TlsKeyOption,
    TlsOption,
    TokenOption,
    spool_limits,
)
from shared.cli import Batch, ExitCode, Outcome, stop_on_error
from shared.errors import SessionError, TaskError


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("send")(send)


def send(
    photos: Annotated[list[Path], typer.Argument(help="Photos, or .fwf files, any number.")],
    server: ServerOption,
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            metavar="NAME,NAME",
            help="Tasks to run, or `none`. Default: all that the server has.",
        ),
    ] = None,
    picture: Annotated[
        bool, typer.Option("--picture", help="Fetch the reconstructions too (needs -o).")
    ] = False,
    output: OutputOption = None,
    state: StateOption = None,
    bpp: BppOption = None,
    max_bytes: BytesOption = None,
    psnr_db: PsnrOption = None,
    best_effort: BestEffortOption = False,
    region: RegionOption = None,
    bundle: Annotated[
        str | None,
        typer.Option("--bundle", help="Bundle folder, zip or name. Default: the server's."),
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option(
            "--also",
            metavar="BUNDLE",
            help="Encode with this bundle too, and send that when the server asks for it.",
        ),
    ] = None,
    send_with: Annotated[
        list[str] | None,
        typer.Option(
            "--with",
            metavar="BUNDLE[:STATE]",
            help="Encode with this bundle too, and send both in one frame.",
        ),
    ] = None,
    device: DeviceOption = None,
    timeout_s: TimeoutOption = 10.0,
    deadline_s: DeadlineOption = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads for one photo.")] = 1,
    tls: TlsOption = False,
    tls_ca: TlsCaOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
    token_file: TokenOption = None,
    spool: SpoolOption = None,
    spool_policy: SpoolPolicyOption = "coarsen",
    spool_bytes: SpoolBytesOption = 256 * 2**20,
    spool_age_s: SpoolAgeOption = 7 * 86400.0,
    bandwidth: BandwidthOption = None,
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
    # Before gRPC is imported: it would write its own lines between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from edge_client.rate import RateControl
    from edge_client.session import EdgeSession, TlsClientFiles
    from edge_client.session.identity import package_version
    from edge_client.spool import Spool
    from shared.codec import RateTarget
    from shared.codec.regions import parse_region
    from shared.wire.address import split_address
    from shared.wire.credentials import read_token
    from shared.wire.requests import parse_tasks
    from shared.wire.tracing import configure_tracing

    if picture and output is None:
        raise typer.BadParameter("--picture needs a folder", param_hint="-o")
    try:
        files = TlsClientFiles(tls_ca, tls_certificate, tls_key, read_token(token_file))
        split_address(server)
        files.check()
        wanted = None if tasks is None else parse_tasks(_names(tasks))
    except SessionError as error:
        sys.stderr.write(f"error: {error.message} [{error.reason}]\n")
        raise typer.Exit(ExitCode.USAGE) from None
    with_states = {_source(text): _state(text) for text in send_with or ()}
    use_tls = tls or files != TlsClientFiles()
    batch = Batch(as_json=as_json, columns=COLUMNS)
    outcome = Outcome()
    with stop_on_error(as_json=as_json), ExitStack() as stack:
        configure_tracing("featherwire-edge", package_version())
        RateTarget(state, bpp, max_bytes, psnr_db)
        regions = tuple(map(parse_region, region or ()))
        limits = spool_limits(spool_policy, spool_bytes, spool_age_s)
        store = None if spool is None else stack.enter_context(Spool.open(spool, limits))
        session = stack.enter_context(
            EdgeSession(
                server,
                device=device,
                bundle=bundle,
                also=[*dict.fromkeys((*(also or ()), *with_states))],
                tasks=wanted,
                threads=threads,
                tls=files if use_tls else None,
                connect_timeout_s=timeout_s,
                deadline_s=deadline_s,
                spool=store,
                control=RateControl(bandwidth, frames_per_second),
                regions=regions,
            )
        )
        if session.online:
            _check_tasks(wanted or (), [*session.available_tasks, *session.unavailable_tasks])
        results = session.stream(
            photos,
            picture=picture,
            state=state,
            bits_per_pixel=bpp,
            max_bytes=max_bytes,
            psnr_db=psnr_db,
            best_effort=best_effort,
            send_with=with_states,
        )
        ended = take_all(results, photos, output, batch, outcome)
        refusal = session.refusal
    # What an earlier run has spooled comes first.
    order = {str(path): number for number, path in enumerate(photos)}
    outcome.results.sort(key=lambda r: (order.get(r["photo"], -1), r["refined"]))
    outcome.failures.sort(key=lambda r: order.get(r["file"], -1))
    if spool is not None:
        tell_kept(outcome, spool, server, refusal)
    try:
        batch.report(outcome)
    except typer.Exit:
        if ended is None:
            raise
    if ended is not None or refusal is not None:
        raise typer.Exit(ExitCode.UNREACHABLE)
    if any("task_errors" in record or "picture_error" in record for record in outcome.results):
        raise typer.Exit(ExitCode.SOME_FAILED)


def _check_tasks(wanted: Iterable[str], known: Sequence[str]) -> None:
    for name in wanted:
        if name not in known:
            raise TaskError(
                "unknown_task",
                f"this server has no task {name!r}; it has {', '.join(known) or 'none'}",
                task=name,
            )


def _source(text: str) -> str:
    """The bundle of ``BUNDLE[:STATE]``."""
    source, _, state = text.rpartition(":")
    return source if source and state.isdigit() else text


def _state(text: str) -> int | None:
    """The state of ``BUNDLE[:STATE]``; None is the finest."""
    return None if _source(text) == text else int(text.rpartition(":")[2])


def _names(text: str) -> list[str]:
    names = text.replace(",", " ").split()
    return [] if names == ["none"] else names
