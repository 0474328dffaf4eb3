"""featherwire-cloud console: the operator's console, by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cloud_server.cli.options import LOG_FORMAT, LOG_LEVEL
from shared.cli.options import TlsCaOption, TlsCertificateOption, TlsKeyOption, quiet_grpc
from shared.installation import install_command


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("console")(console)


def console(
    server: Annotated[
        str,
        typer.Option(
            "--server", metavar="HOST:PORT", help="The server that it shows, as HOST:PORT."
        ),
    ],
    listen: Annotated[
        str,
        typer.Option(
            "--listen", metavar="HOST:PORT", help="HOST:PORT for browsers; port 0 takes a free one."
        ),
    ] = "127.0.0.1:8080",
    tls: Annotated[
        bool, typer.Option("--tls", help="Reach the server over TLS, with the system's CAs.")
    ] = False,
    tls_ca: TlsCaOption = None,
    tls_certificate: TlsCertificateOption = None,
    tls_key: TlsKeyOption = None,
    tls_name: Annotated[
        str | None,
        typer.Option("--tls-name", help="What the server's certificate calls it, if not HOST."),
    ] = None,
    https_certificate: Annotated[
        Path | None, typer.Option("--https-cert", help="PEM file: serve pages over HTTPS.")
    ] = None,
    https_key: Annotated[
        Path | None, typer.Option("--https-key", help="PEM file of its key.")
    ] = None,
    insecure_anywhere: Annotated[
        bool,
        typer.Option(
            "--insecure-anywhere",
            help="Serve plain HTTP to other machines too: for use behind a proxy.",
        ),
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Folder of the key of its cookies; consoles that share it take each other's.",
        ),
    ] = None,
    root_path: Annotated[
        str,
        typer.Option(
            "--root-path",
            metavar="/PATH",
            help="Where a proxy serves it on its host. Default: what the proxy says in "
            "X-Forwarded-Prefix.",
        ),
    ] = "",
    until_stdin_ends: Annotated[bool, typer.Option("--until-stdin-ends", hidden=True)] = False,
    log_format: Annotated[str, LOG_FORMAT] = "auto",
    log_level: Annotated[str, LOG_LEVEL] = "info",
) -> None:
    """Show a server's fleet and results in a browser, and command its devices.

    Users log in with tokens of the server (`featherwire-cloud auth token create`): an operator's
    commands, a consumer's reads. A server with --insecure asks for none. Any number of consoles may
    show one server.
    """
    import asyncio
    import sys

    quiet_grpc()
    from cloud_server.serve.settings import default_data_folder
    from cloud_server.telemetry.logs import configure_logs
    from shared.cli import ExitCode, stop_on_error
    from shared.rpc.access import Access

    configure_logs(log_format=log_format, level=log_level)
    with stop_on_error(as_json=False):
        try:
            from cloud_server.console.app import run
            from cloud_server.console.context import ConsoleSettings
        except ImportError as error:
            sys.stderr.write(
                f"error: the console needs the extra `console` ({error.name} is missing): "
                f"{install_command('console')}\n"
            )
            raise typer.Exit(ExitCode.MISSING) from None
        named = tls_name is not None
        settings = ConsoleSettings(
            listen,
            server,
            Access(tls or named, tls_ca, tls_certificate, tls_key, name=tls_name),
            data or default_data_folder(),
            https_certificate,
            https_key,
            insecure_anywhere,
            root_path.rstrip("/"),
        )
        settings.check()
        asyncio.run(run(settings, until_stdin_ends=until_stdin_ends))
