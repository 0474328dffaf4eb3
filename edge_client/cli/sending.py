"""What `send` and `stream` share: how pictures are encoded, and the session that sends them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_client.cli.encode import (
    BestEffortOption,
    BppOption,
    BytesOption,
    PsnrOption,
    RegionOption,
    StateOption,
)
from edge_client.cli.options import (
    BandwidthOption,
    DeadlineOption,
    DeviceOption,
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
from shared.cli import ExitCode, finite
from shared.errors import SessionError, TaskError

if TYPE_CHECKING:
    from edge_client.session import EdgeSession, FrameResult
    from edge_client.spool import Spool
    from shared.rpc.access import Access
    from shared.sinks import Pumps, Report

TasksOption = Annotated[
    str | None,
    typer.Option(
        "--tasks",
        metavar="NAME,NAME",
        help="Tasks to run, or `none`. Default: all that the server has.",
    ),
]
BundleOption = Annotated[
    str | None,
    typer.Option("--bundle", help="Bundle folder, zip or name. Default: the server's."),
]
AlsoOption = Annotated[
    list[str] | None,
    typer.Option(
        "--also",
        metavar="BUNDLE",
        help="Encode with this bundle too, and send that when the server asks for it.",
    ),
]
WithOption = Annotated[
    list[str] | None,
    typer.Option(
        "--with",
        metavar="BUNDLE[:STATE]",
        help="Encode with this bundle too, and send both in one frame.",
    ),
]
ThreadsOption = Annotated[int, typer.Option(min=1, help="CPU threads for one photo.")]
ToOption = Annotated[
    list[str] | None,
    typer.Option(
        "--to",
        metavar="WHERE",
        help="Results go there too: - (terminal), FILE.jsonl, FILE.csv, FILE.coco.json, "
        "mqtt://HOST/TOPIC, https://HOOK. May be repeated.",
    ),
]
GiveUpOption = Annotated[
    float,
    typer.Option(
        "--give-up-after",
        min=0,
        parser=finite("seconds", minimum=0),
        help="With --to: seconds after which a result that a webhook answers with a failure (5xx) "
        "is dropped, so that the next ones go on.",
    ),
]


@dataclass(frozen=True)
class Sending:
    """Which server, which rate, which bundles. Each field is an option."""

    server: ServerOption
    tasks: TasksOption = None
    state: StateOption = None
    bpp: BppOption = None
    max_bytes: BytesOption = None
    psnr_db: PsnrOption = None
    best_effort: BestEffortOption = False
    region: RegionOption = None
    bundle: BundleOption = None
    also: AlsoOption = None
    send_with: WithOption = None
    to: ToOption = None
    give_up_s: GiveUpOption = 3600.0
    device: DeviceOption = None
    timeout_s: TimeoutOption = 10.0
    deadline_s: DeadlineOption = None
    threads: ThreadsOption = 1
    tls: TlsOption = False
    tls_ca: TlsCaOption = None
    tls_certificate: TlsCertificateOption = None
    tls_key: TlsKeyOption = None
    token_file: TokenOption = None
    spool: SpoolOption = None
    spool_policy: SpoolPolicyOption = "coarsen"
    spool_bytes: SpoolBytesOption = 256 * 2**20
    spool_age_s: SpoolAgeOption = 7 * 86400.0
    bandwidth: BandwidthOption = None

    @property
    def rate(self) -> dict[str, Any]:
        """What ``EdgeSession.send`` and ``stream`` take."""
        return {
            "state": self.state,
            "bits_per_pixel": self.bpp,
            "max_bytes": self.max_bytes,
            "psnr_db": self.psnr_db,
            "best_effort": self.best_effort,
            "send_with": self._with_states,
        }

    @property
    def _with_states(self) -> dict[str, int | None]:
        return {_source(text): _state(text) for text in self.send_with or ()}

    def check(self) -> Access:
        """What is wrong with the options ends the command with the exit code for it; returns how
        to come in."""
        with usage():
            from shared.wire.requests import parse_tasks

            if self.tasks is not None:
                parse_tasks(_names(self.tasks))
        return way_in(
            self.server,
            self.tls,
            self.tls_ca,
            self.tls_certificate,
            self.tls_key,
            self.token_file,
        )

    def open(
        self,
        stack: ExitStack,
        access: Access,
        frames_per_second: float,
        spool: Path | None = None,
    ) -> tuple[EdgeSession, Spool | None]:
        """An open session, which ``stack`` closes. spool: instead of ``--spool``.

        Raises FeatherwireError for what the server, or the bundle, is not.
        """
        from edge_client.rate import RateControl
        from edge_client.session import EdgeSession
        from edge_client.spool import Spool
        from shared.installation import package_version
        from shared.targets import RateTarget, check_regions, parse_region
        from shared.wire.tracing import configure_tracing

        configure_tracing("featherwire-edge", package_version())
        rate = RateTarget(self.state, self.bpp, self.max_bytes, self.psnr_db, self.best_effort)
        regions = check_regions([*map(parse_region, self.region or ())], rate)
        folder = spool or self.spool
        limits = spool_limits(self.spool_policy, self.spool_bytes, self.spool_age_s)
        store = None if folder is None else stack.enter_context(Spool.open(folder, limits))
        wanted = None if self.tasks is None else _names(self.tasks)
        session = stack.enter_context(
            EdgeSession(
                self.server,
                device=self.device,
                bundle=self.bundle,
                also=[*dict.fromkeys((*(self.also or ()), *self._with_states))],
                tasks=wanted,
                threads=self.threads,
                access=access,
                connect_timeout_s=self.timeout_s,
                deadline_s=self.deadline_s,
                spool=store,
                control=RateControl(self.bandwidth, frames_per_second),
                regions=regions,
            )
        )
        if session.online:
            known = [*session.available_tasks, *session.unavailable_tasks]
            for name in wanted or ():
                if name not in known:
                    raise TaskError(
                        "unknown_task",
                        f"this server has no task {name!r}; it has {', '.join(known) or 'none'}",
                        task=name,
                    )
        return session, store

    def open_sinks(self, session: EdgeSession, capacity: int) -> Pumps:
        """The sinks of ``--to``. Raises SinkError."""
        from shared.sinks import SinkOptions, open_sinks

        options = SinkOptions(session.device, capacity=capacity, give_up_s=self.give_up_s)
        return open_sinks(self.to or (), options)


def way_in(
    server: str,
    tls: bool,
    tls_ca: Path | None,
    tls_certificate: Path | None,
    tls_key: Path | None,
    token_file: Path | None,
) -> Access:
    """TLS and the token, checked as far as that can be without the server."""
    # Before gRPC is imported: it would write its own lines between ours.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    from shared.rpc.access import Access, read_token, split_address

    with usage():
        access = Access(tls, tls_ca, tls_certificate, tls_key, read_token(token_file))
        split_address(server)
        access.check()
    return access


@contextmanager
def usage() -> Iterator[None]:
    """A SessionError in options is wrong usage."""
    try:
        yield
    except SessionError as error:
        sys.stderr.write(f"error: {error.message} [{error.reason}]\n")
        raise typer.Exit(ExitCode.USAGE) from None


def report_of(result: FrameResult, session: EdgeSession) -> Report:
    """A result as sinks get it."""
    import time

    from edge_client.session import Origin
    from shared.sinks import Report

    source = result.source
    return Report(
        device=session.device,
        session=session.session,
        sequence=result.sequence,
        source="" if source is None else str(source),
        captured_at=source.captured_at if isinstance(source, Origin) else None,
        completed_at=time.time(),
        bundle=result.bundle_id.hex(),
        state=result.state,
        payload_bytes=result.payload_bytes,
        round_trip_ms=round(result.round_trip_ms, 2) or None,
        refined=result.refined,
        analysis=result.analysis,
        error=result.error,
        task_errors=result.task_errors,
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
