"""The options of `stream` that `send` does not have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from shared.cli import finite

SourceArgument = Annotated[
    list[str],
    typer.Argument(
        metavar="SOURCE",
        envvar="FEATHERWIRE_SOURCE",
        help="A folder (watched), files or a glob, a video file, rtsp://..., http://... (Motion "
        "JPEG), v4l2:/dev/video0, or - (JPEGs on standard input).",
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
        help="Leave out pictures of which no more than this differs from the last one sent; 0.2 "
        "sees a person far away.",
    ),
]
MotionLevelsOption = Annotated[
    float,
    typer.Option(
        "--motion-levels",
        min=0,
        parser=finite("grey levels", minimum=0),
        help="With --motion: what differs by more than so many grey levels of 255 counts.",
    ),
]
StillOption = Annotated[
    float,
    typer.Option(
        "--still-every",
        min=0,
        parser=finite("seconds", minimum=0),
        help="With --motion: a picture goes at least every so many seconds; 0: never.",
    ),
]
LiveOption = Annotated[
    bool,
    typer.Option(
        "--live",
        help="Take a video file, or standard input, as a camera: at its own speed, and of what "
        "comes too fast the newest.",
    ),
]
LoopOption = Annotated[bool, typer.Option("--loop", help="Files and videos: again and again.")]
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
        help="Seconds without a byte after which a stream is opened again.",
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
        help="Move files there once they have a result; what fails stays.",
    ),
]
WindowOption = Annotated[
    int,
    typer.Option("--window", min=1, help="Frames under way at most, while there is a server."),
]
GraceOption = Annotated[
    float,
    typer.Option(
        "--grace",
        min=0,
        parser=finite("seconds", minimum=0),
        help="At the end: seconds to wait for results that are still to come.",
    ),
]
EveryOption = Annotated[
    float,
    typer.Option(
        "--status-every",
        min=0.1,
        parser=finite("seconds", minimum=0.1),
        help="With --json: seconds between lines about the state of things.",
    ),
]
QuietOption = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
JsonLinesOption = Annotated[
    bool, typer.Option("--json", help="Print a JSON document a line: results, status, the end.")
]
