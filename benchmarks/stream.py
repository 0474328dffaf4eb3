"""`featherwire-edge stream FILE` as a whole on one core: frames a second, and where the time goes.

    python -m benchmarks --stream CLIP [CLIP ...] [--bundle NAME] [--limit FRAMES]

The command sends the beginning of a clip twice, a short and a long piece: what the long one takes
more, divided by the frames that it has more, is a frame, and starting has no part in it. Processor
time is the command's own, of all of its threads; the server runs beside it, on other cores where
there are some, and does nothing with what comes. Stages are then timed apart, on the same frames.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import av

from benchmarks.demo.processes import DemoError, command, server_process
from benchmarks.video.rivals import encode, rivals_here
from codec.base import EdgeOptions, open_edge
from edge_client.sources import SourceOptions, open_source
from shared.bundle import Bundle
from shared.targets import RateTarget

FRAMES = 200
SHORT = 20
ROUNDS = 3
STAGE_FRAMES = 60
RIVAL, RIVAL_CRF = "x264", 27
KEY_EVERY = 100
_TIMEOUT_S = 600

# By a small Python of its own, so that what is counted is the command's alone.
_PINNED = """
import json, os, subprocess, sys, time
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {int(sys.argv[1])})
began_s = time.monotonic()
process = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
took_s = time.monotonic() - began_s
print(json.dumps([os.waitstatus_to_exitcode(status), took_s, usage.ru_utime + usage.ru_stime]))
"""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Took:
    """Milliseconds a frame of the whole command: by the clock, and of the processor."""

    wall_ms: float
    cpu_ms: float


def stream_speed(
    clip: Path, bundle: Bundle, *, frames: int = FRAMES, rounds: int = ROUNDS
) -> dict[str, Any]:
    """The whole command, its stages and x264 on one clip and bundle, in milliseconds a frame.

    Raises DemoError when the clip is too short, or a command fails.
    """
    with tempfile.TemporaryDirectory() as name:
        pieces = [_beginning(clip, count, Path(name)) for count in (SHORT, frames)]
        if pieces[1][1] <= pieces[0][1]:
            raise DemoError(f"{clip.name} has no more than {pieces[0][1]} frames")
        with _serving(Path(name), bundle) as address:
            took = [_whole(address, pieces, bundle) for _ in range(rounds)]
    stages, size = stage_times(clip, bundle, min(frames, STAGE_FRAMES))
    whole_ms = statistics.median(one.cpu_ms for one in took)
    wall_ms = statistics.median(one.wall_ms for one in took)
    known_ms = sum(stages.values())
    rival_ms = _rival_ms(clip, min(frames, STAGE_FRAMES))
    return {
        "clip": clip.name,
        "size": size,
        "bundle": bundle.manifest.name,
        "bundle_id": bundle.id,
        "frames": pieces[1][1] - pieces[0][1],
        "whole": round(whole_ms, 2),
        "wall": round(wall_ms, 2),
        "frames_a_second": round(1000 / wall_ms, 1),
        "stages": {stage: round(value, 2) for stage, value in stages.items()},
        "rest": round(whole_ms - known_ms, 2),
        "x264": None if rival_ms is None else round(rival_ms, 2),
    }


def stream_table(rows: list[dict[str, Any]]) -> str:
    """A page for people."""
    lines = []
    for row in rows:
        width, height = row["size"]
        rival = row["x264"]

        def line(name: str, value: float, rival: float | None = rival) -> str:
            return f"| {name} | {value:.2f} | {'-' if rival is None else f'{value / rival:.2f}'} |"

        lines += [
            f"`{row['bundle']}` on {row['clip']}, {width}x{height}: {1000 / row['whole']:.1f} "
            f"frames a second of one core's time; {row['frames_a_second']:.1f} by the clock, in "
            "which the disk and all else that the machine did has a part.",
            "",
            f"| of {row['frames']} frames | ms a frame | relative to x264, CRF {RIVAL_CRF} |",
            "| --- | ---: | ---: |",
            line("the whole command, by the clock", row["wall"]),
            line("the whole command, processor", row["whole"]),
            *(line(f"  of it {stage}", value) for stage, value in row["stages"].items()),
            line("  of it the rest: spool, session, threads", row["rest"]),
            *([] if rival is None else [line("x264 medium, encoding alone", rival)]),
            "",
        ]
    return "\n".join(lines)


def stage_times(clip: Path, bundle: Bundle, frames: int) -> tuple[dict[str, float], list[int]]:
    """Median milliseconds of this thread's processor time that each stage takes a frame, in order;
    and width and height of a frame. Where the bundle predicts, frames after the first are coded
    given the one before, which is decoded for that."""
    edge = open_edge(bundle, EdgeOptions(threads=1))
    edge.load()
    state = bundle.advice.default_state or 0
    taken: dict[str, list[float]] = defaultdict(list)

    def timed(stage: str, job: Callable[[], T]) -> T:
        began_s = time.thread_time()
        result = job()
        taken[stage].append(1000 * (time.thread_time() - began_s))
        return result

    source = open_source([str(clip)], SourceOptions())
    captures = source.captures(threading.Event())
    reference: Any = None
    size: list[int] = []
    for _ in range(frames):
        capture = timed("decoding the video", lambda: next(captures, None))
        if capture is None:
            break
        pixels = timed("turning it to RGB", capture.load)
        assert not isinstance(pixels, Path)
        size = [pixels.shape[1], pixels.shape[0]]
        prepared = timed("resizing and network", partial(edge.prepare, pixels))
        code = partial(edge.encode, prepared, RateTarget(state=state), reference=reference)
        bitstream = timed("coding", code)
        if edge.predicts:
            decode = partial(edge.decode, bitstream, reference=reference)
            reference = timed("decoding the reference", decode)
    return {stage: statistics.median(values) for stage, values in taken.items()}, size


# -- the whole command -----------------------------------------------------------------------------


@contextmanager
def _serving(folder: Path, bundle: Bundle) -> Iterator[str]:
    """A server's address; it has other cores than what is measured, or gives way to that."""
    words = ("--bundle", str(bundle.origin), "--bundles", "none", "--tasks", "none")
    with server_process(folder / "server.log", *words) as (address, process_id):
        with suppress(OSError):
            others = sorted(os.sched_getaffinity(0))[1:]
            if not others:
                os.setpriority(os.PRIO_PROCESS, process_id, 19)
            for task in os.listdir(f"/proc/{process_id}/task") if others else ():
                os.sched_setaffinity(int(task), others)
        yield address


def _beginning(clip: Path, frames: int, folder: Path) -> tuple[Path, int]:
    """A file with so many packets of the clip as they are, and how many frames they make."""
    path = folder / f"{frames}{clip.suffix}"
    try:
        with av.open(str(clip)) as given, av.open(str(path), "w") as made:
            stream = given.streams.video[0]
            copy = made.add_stream_from_template(stream)
            packets = (packet for packet in given.demux(stream) if packet.dts is not None)
            for packet in islice(packets, frames):
                packet.stream = copy
                made.mux(packet)
        with av.open(str(path)) as made:
            return path, sum(1 for _ in made.decode(video=0))
    except (av.FFmpegError, OSError, IndexError) as error:
        raise DemoError(f"{clip} cannot be cut: {error}") from None


def _whole(address: str, pieces: list[tuple[Path, int]], bundle: Bundle) -> Took:
    (short, few), (long, many) = pieces
    before, after = (_run(address, path, bundle) for path in (short, long))
    wall_s, cpu_s = (after[at] - before[at] for at in (0, 1))
    return Took(1000 * wall_s / (many - few), 1000 * cpu_s / (many - few))


def _run(address: str, path: Path, bundle: Bundle) -> tuple[float, float]:
    """Seconds by the clock, and of the processor, of one run on one core."""
    core = sorted(os.sched_getaffinity(0))[0] if hasattr(os, "sched_getaffinity") else 0
    words = [command("featherwire-edge"), "stream", str(path), "--server", address]
    words += ["--bundle", str(bundle.origin), "--tasks", "none", "--quiet"]
    done = subprocess.run(
        [sys.executable, "-c", _PINNED, str(core), *words],
        capture_output=True,
        text=True,
        check=False,
        timeout=_TIMEOUT_S,
    )
    status, wall_s, cpu_s = json.loads(done.stdout) if done.returncode == 0 else (1, 0.0, 0.0)
    if status != 0:
        raise DemoError(f"featherwire-edge stream ended with {status}:\n{done.stderr}")
    return wall_s, cpu_s


def _rival_ms(clip: Path, frames: int) -> float | None:
    """Milliseconds a frame of x264, encoding alone; None where this PyAV has none."""
    rivals = rivals_here([RIVAL])
    if not rivals:
        return None
    source = open_source([str(clip)], SourceOptions())
    captures = islice(source.captures(threading.Event()), frames)
    pictures = (
        pixels for pixels in (one.load() for one in captures) if not isinstance(pixels, Path)
    )
    even = (one[: one.shape[0] // 2 * 2, : one.shape[1] // 2 * 2] for one in pictures)
    stream = encode(even, rivals[0], [RIVAL_CRF], fps=10.0, key_every=KEY_EVERY)[RIVAL_CRF]
    return 1000 * stream.encode_s / max(1, len(stream.packets))
