"""The session and the echo in turns, so that a busy machine slows both alike."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.demo.processes import server_process
from benchmarks.transport.device import Device, frame_of
from benchmarks.transport.echo import EchoClient, echo_server
from cloud_server.ingest.flow import StreamLimits
from shared.bundle import Bundle
from shared.proto.featherwire.v1 import ingest_pb2

SIZES = (2_000, 4_000, 40_000)
SESSIONS = (1, 4)

FRAMES = 4000
"""Of one session in one round; of several sessions together."""
ROUNDS = 5

IN_FLIGHT = StreamLimits().kept_credits
"""Frames that a server lets a stream have under way, once these ask nothing: the echo's too."""

_names = itertools.count()
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Ends:
    """Addresses and process ids of the server and of the echo."""

    ours: str
    ours_pid: int
    bare: str
    bare_pid: int


@dataclass(frozen=True, slots=True)
class Took:
    """One round: messages a second, and microseconds of processor a message, both ends together."""

    rate: float
    cpu_us: float


def transport(
    bundle: Bundle,
    *,
    sizes: Sequence[int] = SIZES,
    sessions: Sequence[int] = SESSIONS,
    frames: int = FRAMES,
    rounds: int = ROUNDS,
) -> list[dict[str, Any]]:
    """Frames a second through the durable session and through the echo, and their ratio.

    The server is as it is by default. Raises DemoError when one does not start.
    """
    return asyncio.run(_transport(bundle, sizes, sessions, frames, rounds))


async def _transport(
    bundle: Bundle, sizes: Sequence[int], sessions: Sequence[int], frames: int, rounds: int
) -> list[dict[str, Any]]:
    tasks_off = ("--bundle", str(bundle.origin), "--bundles", "none", "--tasks", "none")
    with (
        tempfile.TemporaryDirectory() as folder,
        echo_server() as bare,
        server_process(Path(folder) / "server.log", *tasks_off) as ours,
    ):
        ends = Ends(*ours, *bare)
        return [
            await _case(bundle, ends, size, streams, frames, rounds)
            for size, streams in itertools.product(sizes, sessions)
        ]


async def _case(
    bundle: Bundle, ends: Ends, size: int, streams: int, frames: int, rounds: int
) -> dict[str, Any]:
    frame = frame_of(bundle, size)
    request = ingest_pb2.ConnectRequest(frame=frame)
    request.frame.sequence = 1
    payload = request.SerializeToString()
    each = frames // streams
    async with AsyncExitStack() as stack:
        devices = [
            await stack.enter_async_context(Device(ends.ours, f"s{next(_names)}"))
            for _ in range(streams)
        ]
        echoes = [
            await stack.enter_async_context(EchoClient(ends.bare, IN_FLIGHT))
            for _ in range(streams)
        ]
        pairs: list[tuple[Took, Took]] = []
        for number in range(rounds + 1):
            few = each // 4 if number == 0 else each
            sending = [_send(device, bundle, size, few) for device in devices]
            session = await _timed(sending, ends.ours_pid, few * streams)
            echoing = [echo.run(payload, few) for echo in echoes]
            pairs.append((session, await _timed(echoing, ends.bare_pid, few * streams)))
    del pairs[0]  # warm-up
    return {
        "payload_bytes": size,
        "message_bytes": len(payload),
        "sessions": streams,
        "in_flight": IN_FLIGHT,
        "frames_per_second": round(statistics.median(one.rate for one, _ in pairs)),
        "echo_per_second": round(statistics.median(other.rate for _, other in pairs)),
        "ratio": round(statistics.median(one.rate / other.rate for one, other in pairs), 3),
        "cpu_us": round(statistics.median(one.cpu_us for one, _ in pairs)),
        "echo_cpu_us": round(statistics.median(other.cpu_us for _, other in pairs)),
        "cpu_ratio": round(statistics.median(other.cpu_us / one.cpu_us for one, other in pairs), 3),
    }


async def _send(device: Device, bundle: Bundle, size: int, count: int) -> None:
    frame = frame_of(bundle, size)
    for _ in range(count):
        await device.send(frame)
    await device.settled()
    if device.errors:
        raise RuntimeError(f"frames were refused: {set(device.errors)}")


async def _timed(work: Sequence[Any], pid: int, messages: int) -> Took:
    """pid: of the other end."""
    began, began_cpu = time.perf_counter(), time.process_time() + _cpu_s(pid)
    await asyncio.gather(*work)
    elapsed_s = time.perf_counter() - began
    cpu_s = time.process_time() + _cpu_s(pid) - began_cpu
    return Took(messages / elapsed_s, 1e6 * cpu_s / messages)


def _cpu_s(pid: int) -> float:
    """Seconds of processor that a process has taken, its own and the system's for it."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def write_transport(rows: Sequence[dict[str, Any]], output: Path) -> None:
    """transport.json, and transport.md beside the other times."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "transport.json").write_text(json.dumps(rows, indent=1) + "\n")
    (output / "transport.md").write_text(transport_table(rows))


def transport_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rates as Markdown."""
    lines = [
        "| durable session, tasks off | frames/s | bare echo, messages/s | ratio "
        "| CPU a frame, both ends | CPU an echo | ratio |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        count = row["sessions"]
        what = f"{row['payload_bytes'] / 1000:g} kB, {count} session{'s' if count > 1 else ''}"
        lines.append(
            f"| {what} | {row['frames_per_second']} | {row['echo_per_second']} | {row['ratio']} "
            f"| {row['cpu_us']} µs | {row['echo_cpu_us']} µs | {row['cpu_ratio']} |"
        )
    load = os.getloadavg()[0]
    lines += [
        "",
        f"Both with {rows[0]['in_flight']} messages under way a stream, in turns, medians; "
        f"load average {load:.1f} on {os.cpu_count()} processors at the end, so that figures "
        "of processor time say more than rates where that is high.",
    ]
    return "\n".join(lines) + "\n"
