"""The session and the echo in turns, so that a busy machine slows both alike."""

from __future__ import annotations

import asyncio
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.demo.processes import server
from benchmarks.transport.device import Device
from benchmarks.transport.echo import EchoClient, echo_server
from benchmarks.transport.payload import frame_of
from shared.bundle import Bundle
from shared.proto.featherwire.v1 import ingest_pb2

SIZES = (2_000, 4_000, 40_000)
SESSIONS = (1, 4)
CREDITS = (8, 64)
"""The server's default, where the disk's latency counts, and what a fast sender is given."""

FRAMES = 600
"""Of one session in one round; of several sessions together."""
ROUNDS = 5

_names = itertools.count()


def transport(
    bundle: Bundle,
    *,
    sizes: Sequence[int] = SIZES,
    sessions: Sequence[int] = SESSIONS,
    frames: int = FRAMES,
    rounds: int = ROUNDS,
    credits: Sequence[int] = CREDITS,
) -> list[dict[str, Any]]:
    """Frames a second through the durable session and through the echo, and their ratio.

    Both have as many frames under way as the server gives ``credits``; each of these is a server
    of its own. Raises DemoError when one does not start.
    """
    tasks_off = ("--bundle", str(bundle.origin), "--bundles", "none", "--tasks", "none")
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, echo_server() as bare:
        for window in credits:
            log = Path(folder) / "server.log"
            with server(log, *tasks_off, "--credits", str(window)) as ours:
                rows += [
                    asyncio.run(_case(bundle, ours, bare, size, streams, frames, rounds))
                    for size, streams in itertools.product(sizes, sessions)
                ]
    return rows


async def _case(
    bundle: Bundle, ours: str, bare: str, size: int, streams: int, frames: int, rounds: int
) -> dict[str, Any]:
    frame = frame_of(bundle, size)
    request = ingest_pb2.ConnectRequest(frame=frame)
    request.frame.sequence = 1
    payload = request.SerializeToString()
    each = frames // streams
    async with AsyncExitStack() as stack:
        devices = [
            await stack.enter_async_context(Device(ours, f"s{next(_names)}"))
            for _ in range(streams)
        ]
        window = devices[0].welcome.credits
        echoes = [await stack.enter_async_context(EchoClient(bare, window)) for _ in range(streams)]
        rates: list[tuple[float, float]] = []
        for number in range(rounds + 1):
            few = each // 4 if number == 0 else each
            session_s = await _timed([_send(device, bundle, size, few) for device in devices])
            echo_s = await _timed([echo.run(payload, few) for echo in echoes])
            rates.append((few * streams / session_s, few * streams / echo_s))
    del rates[0]  # warm-up
    return {
        "payload_bytes": size,
        "message_bytes": len(payload),
        "sessions": streams,
        "credits": window,
        "frames_per_second": round(statistics.median(rate for rate, _ in rates)),
        "echo_per_second": round(statistics.median(rate for _, rate in rates)),
        "ratio": round(statistics.median(one / other for one, other in rates), 3),
    }


async def _send(device: Device, bundle: Bundle, size: int, count: int) -> None:
    frame = frame_of(bundle, size)
    for _ in range(count):
        await device.send(frame)
    await device.settled()
    if device.errors:
        raise RuntimeError(f"frames were refused: {set(device.errors)}")


async def _timed(work: Sequence[Any]) -> float:
    started = time.perf_counter()
    await asyncio.gather(*work)
    return time.perf_counter() - started


def write_transport(rows: Sequence[dict[str, Any]], output: Path) -> None:
    """transport.json, and transport.md beside the other times."""
    output.mkdir(parents=True, exist_ok=True)
    (output / "transport.json").write_text(json.dumps(rows, indent=1) + "\n")
    (output / "transport.md").write_text(transport_table(rows))


def transport_table(rows: Sequence[dict[str, Any]]) -> str:
    """The rates as Markdown."""
    lines = [
        "| durable session, tasks off | credits | frames/s | bare echo, messages/s | ratio |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for row in rows:
        count = row["sessions"]
        what = f"{row['payload_bytes'] / 1000:g} kB, {count} session{'s' if count > 1 else ''}"
        lines.append(
            f"| {what} | {row['credits']} | {row['frames_per_second']} "
            f"| {row['echo_per_second']} | {row['ratio']} |"
        )
    return "\n".join(lines) + "\n"
