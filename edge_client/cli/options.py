"""Options that several commands share, and the session that they describe."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from shared.cli import ExitCode, bits_per_second, finite, split_names, stop_on_error
from shared.cli.options import Connecting
from shared.errors import SessionError, TaskError

if TYPE_CHECKING:
    from edge_client.session import EdgeSession, SessionEvents
    from edge_client.spool import Spool
    from shared.rpc.access import Access
    from shared.sinks import Pumps

StateOption = Annotated[
    int | None,
    typer.Option(
        "--state",
        min=0,
        help="State of the bundle: 0 is the finest. Default: the bundle's own, beyond which bits "
        "bring little.",
    ),
]
BppOption = Annotated[
    float | None,
    typer.Option(
        "--bpp",
        min=0,
        parser=finite("bits per pixel", minimum=0),
        help="At most so many bits per pixel: of `stream` on average over frames, where frames are "
        "predicted; otherwise of each.",
    ),
]
BytesOption = Annotated[int | None, typer.Option("--bytes", min=0, help="At most so many bytes.")]
PsnrOption = Annotated[
    float | None,
    typer.Option(
        "--psnr",
        min=0,
        parser=finite("a PSNR in decibels", minimum=0),
        help="Expected PSNR of the reconstruction: at least so many decibels.",
    ),
]
BestEffortOption = Annotated[
    bool,
    typer.Option(
        "--best-effort",
        help="With --psnr: take the finest state where none is expected to reach it.",
    ),
]
RegionOption = Annotated[
    list[str] | None,
    typer.Option(
        "--region",
        metavar="X,Y,W,H[:STATE]",
        help="Code this part (shares of the photo's sides) at STATE, 0 by default, where that is "
        "finer than what the rate gives the rest; may be repeated.",
    ),
]

OutputOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Folder: STEM.json for each photo, and STEM.png."),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="Name of this device. Default: the one whose frames the spool has, or its host name.",
    ),
]
RenameOption = Annotated[
    bool,
    typer.Option(
        "--rename",
        help="Give a spool with another device's frames over to --device; not while a server may "
        "have some of them.",
    ),
]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout",
        min=0.1,
        parser=finite("seconds to wait", minimum=0.1),
        help="Seconds to wait for the server's answer.",
    ),
]
DeadlineOption = Annotated[
    float | None,
    typer.Option(
        "--deadline",
        min=0.1,
        parser=finite("seconds for a frame", minimum=0.1),
        help="Seconds a frame may take. Default: the server's.",
    ),
]
BandwidthOption = Annotated[
    float | None,
    typer.Option(
        "--bandwidth",
        metavar="BITS_PER_SECOND",
        parser=bits_per_second,
        help="At most so many bits a second, such as 64k or 1.5M; picks the state. A key frame of "
        "`stream` may take more than the frames after it, and what a still scene leaves makes it "
        "finer; frames are left out where even the coarsest state is too much.",
    ),
]

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
SpoolOption = Annotated[
    Path | None,
    typer.Option(
        "--spool",
        metavar="FOLDER",
        help="Keep frames here until the server has them, over restarts and power cuts.",
    ),
]
SpoolPolicyOption = Annotated[
    Literal["oldest", "newest", "coarsen"],
    typer.Option(help="What to give up when the spool is full."),
]
SpoolBytesOption = Annotated[int, typer.Option(min=1, help="At most so many bytes of frames.")]
SpoolAgeOption = Annotated[
    float,
    typer.Option(
        "--spool-age",
        min=1,
        parser=finite("seconds to keep a frame", minimum=1),
        help="Seconds that a frame is kept; time for which the device is off does not count.",
    ),
]
KeyEveryOption = Annotated[
    str,
    typer.Option(
        "--key-every",
        metavar="FRAMES|SECONDSs",
        help="A frame that stands alone after so many frames, or seconds (10s), at the latest; the "
        "others refer to the one before them, where bundle and server can do that.",
    ),
]
PredictOption = Annotated[
    bool, typer.Option("--predict/--no-predict", help="Let frames refer to the one before them.")
]
FramesPerSecondOption = Annotated[
    float,
    typer.Option(
        "--frames-per-second",
        min=0.001,
        parser=finite("frames a second", minimum=0.001),
        help="With --bandwidth: the state is the finest with which so many frames fit.",
    ),
]


@dataclass(frozen=True)
class Calling(Connecting):
    """Which server, and how it is reached: for `send`, `stream` and `flush`. Each field is an
    option."""

    device: DeviceOption = None
    rename: RenameOption = False
    timeout_s: TimeoutOption = 10.0
    deadline_s: DeadlineOption = None
    bandwidth: BandwidthOption = None

    def checked_access(self, *, as_json: bool) -> Access:
        """TLS and the token, checked as far as that can be without the server. Wrong options end
        the command."""
        with stop_on_error(as_json=as_json, code=ExitCode.USAGE):
            access = self.access()
            from shared.rpc.access import split_address

            split_address(self.server)
            access.check()
        return access

    def name(self, spool: Spool) -> None:
        """Give the spool another device's name where that was asked for. Raises ``SpoolError``."""
        if self.rename:
            if self.device is None:
                raise SessionError("bad_option", "--rename needs the new name: --device NAME")
            spool.rename(self.device)


@dataclass(frozen=True)
class Sending(Calling):
    """Which server, which rate, which bundles: for `send` and `stream`. Each field is an option."""

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
    threads: ThreadsOption = 1
    spool: SpoolOption = None
    spool_policy: SpoolPolicyOption = "coarsen"
    spool_bytes: SpoolBytesOption = 256 * 2**20
    spool_age_s: SpoolAgeOption = 7 * 86400.0
    key_every: KeyEveryOption = "250"
    predict: PredictOption = True

    @property
    def rate(self) -> dict[str, Any]:
        """The rate as keyword arguments of ``EdgeSession.send`` and ``stream``."""
        return {
            "state": self.state,
            "bits_per_pixel": self.bpp,
            "max_bytes": self.max_bytes,
            "psnr_db": self.psnr_db,
            "best_effort": self.best_effort,
            "send_with": self._with_states,
        }

    @property
    def typed(self) -> dict[str, Any]:
        """What operators can set otherwise, by the option's name; None: it was not typed."""
        return {
            "--state": self.state,
            "--bpp": self.bpp,
            "--bytes": self.max_bytes,
            "--psnr": self.psnr_db,
            "--bandwidth": self.bandwidth,
            "--tasks": self.tasks,
            "--region": " ".join(self.region) if self.region else None,
            "--bundle": self.bundle,
        }

    @property
    def _with_states(self) -> dict[str, int | None]:
        return {_source(text): _state(text) for text in self.send_with or ()}

    def check(self, *, as_json: bool) -> Access:
        """How to come in, after a look at the options. Wrong ones end the command."""
        with stop_on_error(as_json=as_json, code=ExitCode.USAGE):
            from edge_client.session.groups import KeyEvery
            from shared.wire.requests import parse_tasks

            KeyEvery.parse(self.key_every)
            if self.tasks is not None:
                parse_tasks(split_names(self.tasks))
        return self.checked_access(as_json=as_json)

    def open(
        self,
        stack: ExitStack,
        access: Access,
        frames_per_second: float,
        spool: Path | None = None,
        *,
        events: SessionEvents | None = None,
        hurry: threading.Event | None = None,
        stream: bool = False,
    ) -> tuple[EdgeSession, Spool | None]:
        """An open session, which ``stack`` closes. spool: instead of ``--spool``. events,
        hurry: as for ``EdgeSession``. stream: a rate is of the stream; see ``RateControl``.

        Raises FeatherwireError for what the server, or the bundle, is not.
        """
        from edge_client.rate import RateControl
        from edge_client.session import EdgeSession, KeyEvery
        from edge_client.spool import Spool, SpoolLimits, SpoolPolicy
        from shared.installation import package_version
        from shared.targets import RateTarget, check_regions, parse_region
        from shared.wire.tracing import configure_tracing

        configure_tracing("featherwire-edge", package_version())
        rate = RateTarget(self.state, self.bpp, self.max_bytes, self.psnr_db, self.best_effort)
        regions = check_regions([*map(parse_region, self.region or ())], rate)
        folder = spool or self.spool
        limits = SpoolLimits(self.spool_bytes, self.spool_age_s, SpoolPolicy(self.spool_policy))
        store = None if folder is None else stack.enter_context(Spool.open(folder, limits))
        if store is not None:
            self.name(store)
        wanted = None if self.tasks is None else split_names(self.tasks)
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
                control=RateControl(self.bandwidth, frames_per_second, stream=stream),
                regions=regions,
                events=events,
                hurry=hurry,
                key_every=KeyEvery.parse(self.key_every),
                predict=self.predict,
            )
        )
        if session.online:
            # What no frame can have is said once, and not of each.
            session.encoder.check(rate)
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
        """Open the sinks of ``--to``. Raises SinkError."""
        from shared.sinks import SinkOptions, open_sinks

        options = SinkOptions(session.device, capacity=capacity, give_up_s=self.give_up_s)
        return open_sinks(self.to or (), options)


def _source(text: str) -> str:
    """The bundle of ``BUNDLE[:STATE]``."""
    source, _, state = text.rpartition(":")
    return source if source and state.isdigit() else text


def _state(text: str) -> int | None:
    """The state of ``BUNDLE[:STATE]``; None is the bundle's default."""
    return None if _source(text) == text else int(text.rpartition(":")[2])
