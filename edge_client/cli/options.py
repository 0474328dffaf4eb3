"""Options of the commands that send: where to, from which spool, and at what rate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from shared.cli import bits_per_second, finite

if TYPE_CHECKING:
    from edge_client.spool import SpoolLimits

ServerOption = Annotated[str, typer.Option("--server", metavar="HOST:PORT", help="Where to.")]
OutputOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Folder: STEM.json for each photo, and STEM.png."),
]
DeviceOption = Annotated[
    str | None, typer.Option("--device", help="Name of this device. Default: its host name.")
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
TlsOption = Annotated[bool, typer.Option("--tls", help="Use TLS, with the system's CAs.")]
TlsCaOption = Annotated[
    Path | None, typer.Option("--tls-ca", help="PEM file of the server's CA; implies --tls.")
]
TlsCertificateOption = Annotated[
    Path | None, typer.Option("--tls-cert", help="PEM file, for a server that wants one.")
]
TlsKeyOption = Annotated[Path | None, typer.Option("--tls-key", help="PEM file.")]
TokenOption = Annotated[
    Path | None,
    typer.Option(
        "--token-file",
        help="File with this device's token; or FEATHERWIRE_TOKEN is it. Implies --tls.",
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
    typer.Option(help="What gives way when the spool is full."),
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
BandwidthOption = Annotated[
    float | None,
    typer.Option(
        "--bandwidth",
        metavar="BITS_PER_SECOND",
        parser=bits_per_second,
        help="At most so many bits a second, such as 64k or 1.5M; picks state and frame rate.",
    ),
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


def spool_limits(policy: str, max_bytes: int, max_age_s: float) -> SpoolLimits:
    """The spool's options as its limits."""
    from edge_client.spool import SpoolLimits, SpoolPolicy

    return SpoolLimits(max_bytes, max_age_s, SpoolPolicy(policy))
