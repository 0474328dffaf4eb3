"""featherwire-cloud serve: the server."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cloud_server.cli.options import LOG_FORMAT, LOG_LEVEL, ScoreOption
from shared.cli import JsonLinesOption, finite, print_line, takes
from shared.cli.options import quiet_grpc

if TYPE_CHECKING:
    from cloud_server.serve.settings import ServerSettings


def register(app: typer.Typer) -> None:
    """Add the command to ``app``."""
    app.command("serve")(serve)


@dataclass(frozen=True)
class Settings:
    """The settings that have a flag, by their names in ``ServerSettings``. Each field is an
    option."""

    listen: Annotated[
        str | None,
        typer.Option(
            "--listen",
            metavar="HOST:PORT",
            help="Default: 127.0.0.1:7570. Port 0 takes a free one and says which.",
        ),
    ] = None
    metrics: Annotated[
        str | None,
        typer.Option("--metrics", metavar="HOST:PORT", help="Serve /metrics for Prometheus."),
    ] = None
    console: Annotated[
        str | None,
        typer.Option(
            "--console",
            metavar="HOST:PORT",
            help="Serve the operator's console too, as 127.0.0.1:8080 (extra `console`).",
        ),
    ] = None
    console_root_path: Annotated[
        str | None,
        typer.Option(
            "--console-root-path",
            metavar="/PATH",
            help="Where a proxy serves the console. Default: what it says in X-Forwarded-Prefix.",
        ),
    ] = None
    bundle: Annotated[
        str | None,
        typer.Option("--bundle", help="Bundle folder, zip or name. Default: the picture bundle."),
    ] = None
    bundles: Annotated[
        str | None,
        typer.Option(
            "--bundles",
            metavar="NAME,NAME",
            help="Bundles to take beside it, or `none`. Default: all that come with Featherwire.",
        ),
    ] = None
    tasks: Annotated[
        str | None,
        typer.Option(
            "--tasks",
            metavar="NAME,NAME",
            help="Tasks on pictures to open, or `none`. Default: detection,segmentation,landmarks.",
        ),
    ] = None
    detector: Annotated[
        str | None, typer.Option("--detector", help="Back end of detection, such as yolo11n.pt.")
    ] = None
    segmenter: Annotated[
        str | None,
        typer.Option("--segmenter", help="Back end of segmentation, such as yolo11n-seg.pt."),
    ] = None
    shown_score: ScoreOption = None
    device: Annotated[str | None, typer.Option("--device", help="cpu, cuda, cuda:1 ...")] = None
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            metavar="N",
            help="Processes that analyse frames, each with its own models; one that dies is "
            "replaced. Default: 0, threads of the server's own.",
        ),
    ] = None
    models_dir: Annotated[
        Path | None,
        typer.Option("--models-dir", help="A folder of weights, searched before the cache."),
    ] = None
    data: Annotated[
        Path | None,
        typer.Option(
            "--data",
            metavar="DIR",
            help="Folder of the log of frames and results. One server a folder. Default: "
            "featherwire in $XDG_DATA_HOME, else in ~/.local/share.",
        ),
    ] = None
    database: Annotated[
        str | None,
        typer.Option(
            "--database",
            metavar="URL",
            help="postgresql://HOST/NAME in place of the folder. Give a URL with a password in "
            "FEATHERWIRE_DATABASE instead.",
        ),
    ] = None
    keep_days: Annotated[
        float | None,
        typer.Option(
            "--keep-days",
            parser=finite("days"),
            help="Forget frames and results that are older. Default: never.",
        ),
    ] = None
    keep_bytes: Annotated[
        int | None,
        typer.Option(
            "--keep-bytes", help="Forget the oldest beyond so many bytes. Default: never."
        ),
    ] = None
    credits: Annotated[
        int | None,
        typer.Option(
            "--credits",
            help="Frames that a device may have in flight, of those that are analysed. Default: 8.",
        ),
    ] = None
    refine_band: Annotated[
        str | None,
        typer.Option(
            "--refine-band",
            metavar="LOW:HIGH",
            help="Ask devices for more of a frame that has a detection with a score in this band, "
            "such as 0.3:0.6. They have what `send --also` keeps.",
        ),
    ] = None
    refine_bundle: Annotated[
        str | None,
        typer.Option(
            "--refine-bundle",
            metavar="NAME",
            help="The bundle whose layers are asked for. Default: --bundle.",
        ),
    ] = None
    refine_state: Annotated[
        int | None,
        typer.Option(
            "--refine-state", help="The state up to which they are asked for. Default: 0."
        ),
    ] = None
    drain_deadline_s: Annotated[
        float | None,
        typer.Option(
            "--drain-deadline",
            parser=finite("seconds for frames in flight"),
            help="Seconds that frames in flight have on SIGTERM.",
        ),
    ] = None
    tls_certificate: Annotated[
        Path | None, typer.Option("--tls-cert", help="PEM file of the server's certificate.")
    ] = None
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="PEM file of its key.")] = None
    tls_client_ca: Annotated[
        Path | None,
        typer.Option(
            "--tls-client-ca",
            help="PEM file of a CA; clients must show a certificate that it signed.",
        ),
    ] = None
    insecure: Annotated[
        bool,
        typer.Option(
            "--insecure",
            help="Let anybody do anything: no tokens, and without --tls-cert no TLS. On this "
            "machine's loopback only.",
        ),
    ] = False
    insecure_anywhere: Annotated[
        bool, typer.Option("--insecure-anywhere", help="With --insecure: on any address.")
    ] = False
    log_format: Annotated[str | None, LOG_FORMAT] = None
    log_level: Annotated[str | None, LOG_LEVEL] = None

    def given(self) -> dict[str, Any]:
        """Those that were given."""
        return {
            name: value
            for name, value in vars(self).items()
            if value is not None and value is not False
        }


@takes(Settings)
def serve(
    flags: Settings,
    config: Annotated[
        Path | None,
        typer.Option("--config", help="YAML file of settings; or FEATHERWIRE_CONFIG names it."),
    ] = None,
    as_json: JsonLinesOption = False,
) -> None:
    """Receive features, reconstruct pictures, run tasks, and send results back.

    A frame is acknowledged once it is on the disk, and has exactly one result, also when the server
    is killed before it is made.

    Every setting can also come from a YAML file (--config) or from FEATHERWIRE_<SETTING> in the
    environment; flags win over variables, variables over the file. SIGTERM or Ctrl-C lets frames in
    flight finish first; a second one stops at once. SIGHUP takes certificates and log_level anew,
    and says which changed settings need a restart.

    Callers need TLS and a token (`featherwire-cloud auth`), but for the server's health. Reflection
    is on: with --insecure `grpcurl -plaintext HOST:PORT list` works.
    """
    import asyncio
    import os
    import sys
    from functools import partial

    quiet_grpc()
    from cloud_server.serve.settings import ServerSettings
    from cloud_server.telemetry.logs import configure_logs
    from shared.cli import ExitCode, stop_on_error
    from shared.errors import FeatherwireError
    from shared.installation import package_version
    from shared.wire.tracing import configure_tracing

    with stop_on_error(as_json=as_json, code=ExitCode.USAGE):
        settings = ServerSettings.load(config, **flags.given())
    configure_logs(log_format=settings.log_format, level=settings.log_level)
    with stop_on_error(as_json=as_json):
        configure_tracing("featherwire-cloud", package_version())

    async def run() -> tuple[bool, bool]:
        from cloud_server.console.child import ConsoleProcess, check_console, console_arguments
        from cloud_server.serve.service import open_server

        check_console(settings)
        server, engine, opened = await open_server(settings)
        address = await server.start(settings.listen)
        server.stop_on_signals()
        server.reload_on_hangup(partial(_reload, settings, config, flags))
        beside: ConsoleProcess | None = None
        if settings.console is not None:
            try:
                beside = ConsoleProcess(console_arguments(settings, address))
                shown_at = await beside.start()
            except FeatherwireError:
                server.stop()
                await server.wait()
                raise
        ready = {
            "listening": address,
            "log": server.log_place,
            "metrics_port": server.metrics_port,
            "console": None if beside is None else shown_at,
            "bundle": opened[0].id,
            "bundles": {bundle.manifest.name: bundle.id for bundle in opened},
            "tasks": [s.name for s in engine.tasks.values() if s.unavailable is None],
            "unavailable": {
                s.name: s.unavailable.to_dict()
                for s in engine.tasks.values()
                if s.unavailable is not None
            },
        }
        if as_json:
            print_line(ready)
        else:
            _print_ready(ready)
            sys.stdout.flush()
        try:
            drained = await server.wait()
        finally:
            if beside is not None:
                await beside.stop()
        return drained, server.workers_stopped

    with stop_on_error(as_json=as_json):
        drained, workers_stopped = asyncio.run(run())
    if not workers_stopped:
        # A thread is still inside torch; to finalise the interpreter under it aborts the process.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(ExitCode.OK if drained else ExitCode.SOME_FAILED)
    if not drained:
        raise typer.Exit(ExitCode.SOME_FAILED)


def _reload(settings: ServerSettings, config: Path | None, flags: Settings) -> None:
    """On SIGHUP: take what can be taken of the settings as they are now, and name what cannot."""
    import structlog

    from cloud_server.telemetry.logs import configure_logs
    from shared.errors import FeatherwireError

    try:
        now = type(settings).load(config, **flags.given())
    except FeatherwireError as error:
        structlog.get_logger().warning("settings_not_taken", **error.to_dict())
        return
    configure_logs(log_format=settings.log_format, level=now.log_level)
    waiting = sorted(
        name
        for name in type(now).model_fields
        if name != "log_level" and getattr(now, name) != getattr(settings, name)
    )
    structlog.get_logger().info("reloaded", log_level=now.log_level, need_restart=waiting)


def _print_ready(ready: Mapping[str, object]) -> None:
    print(f"listening on {ready['listening']}")
    print(f"log {ready['log']}")
    if ready["metrics_port"] is not None:
        print(f"metrics on port {ready['metrics_port']}")
    if ready["console"] is not None:
        print(f"console {ready['console']}")
    bundles = ready["bundles"]
    if isinstance(bundles, dict):
        for name, bundle_id in bundles.items():
            print(f"bundle {bundle_id} ({name})")
    tasks = ready["tasks"]
    print("tasks " + (", ".join(tasks) if isinstance(tasks, list) and tasks else "none"))
    unavailable = ready["unavailable"]
    if isinstance(unavailable, dict):
        for name, error in unavailable.items():
            print(f"task {name} is unavailable: {error['message']}")
