"""featherwire-edge flush: what a spool still holds to a server, findings back."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from edge_client.cli.encode import JsonOption
from edge_client.cli.findings import COLUMNS, take_all, tell_kept
from edge_client.cli.options import (
    BandwidthOption,
    DeadlineOption,
    DeviceOption,
    OutputOption,
    ServerOption,
    TimeoutOption,
    TlsCaOption,
    TlsCertificateOption,
    TlsKeyOption,
    TlsOption,
    TokenOption,
)
from edge_client.cli.sending import way_in
from shared.cli import Batch, ExitCode, Outcome, stop_on_error


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("flush")(flush)


def flush(
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
    server: ServerOption,
    output: OutputOption = None,
    device: DeviceOption = None,
    timeout_s: TimeoutOption = 10.0,
    deadline_s: DeadlineOption = None,
    bandwidth: BandwidthOption = None,
    tls: TlsOption = False,
    tls_ca: TlsCaOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
    token_file: TokenOption = None,
    as_json: JsonOption = False,
) -> None:
    """Deliver the frames that `send --spool FOLDER` kept; print what the server finds in them.

    Exit status 4 when frames are still kept afterwards, because no server took them.
    """
    access = way_in(server, tls, tls_ca, tls_certificate, tls_key, token_file)
    from edge_client.rate import RateControl
    from edge_client.session import EdgeSession
    from edge_client.spool import Spool

    batch = Batch(as_json=as_json, columns=COLUMNS)
    outcome = Outcome()
    with (
        stop_on_error(as_json=as_json),
        Spool.open(spool) as store,
        EdgeSession(
            server,
            device=device,
            access=access,
            connect_timeout_s=timeout_s,
            deadline_s=deadline_s,
            spool=store,
            control=RateControl(bandwidth),
        ) as session,
    ):
        ended = take_all(session.flush(), [], output, batch, outcome)
        refusal = session.refusal
    tell_kept(outcome, spool, server, refusal)
    batch.report(outcome)
    if ended is not None or refusal is not None or outcome.kept:
        raise typer.Exit(ExitCode.UNREACHABLE)
