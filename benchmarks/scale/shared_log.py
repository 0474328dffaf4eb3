"""Frames a second that servers put into one PostgreSQL log, with a result each: alone, in turns."""

from __future__ import annotations

import asyncio
import time
from dataclasses import asdict, dataclass
from typing import Any

from cloud_server.database import Database
from cloud_server.database.locks import CommitLock
from cloud_server.results.log import ResultLog
from cloud_server.results.records import NewFrame, SessionKey
from shared.proto.featherwire.v1 import types_pb2

SESSIONS = 8
"""Of each server."""

IN_FLIGHT = 8
"""Frames of a session."""

FRAMES = 100
"""Of a session."""

PAYLOAD_BYTES = 2048


@dataclass(frozen=True, slots=True)
class LogRow:
    """So many servers, and the frames that they accepted and completed a second, all together."""

    servers: int
    shared: bool
    frames_per_second: float


async def shared_log(url: str) -> list[dict[str, Any]]:
    """Rows; ``url``: of an empty PostgreSQL database. Its servers are in this process."""
    rows = []
    for servers, shared in ((1, False), (1, True), (2, True), (4, True)):
        logs = [
            await asyncio.to_thread(
                lambda shared=shared: ResultLog(
                    Database(url, commit_lock=CommitLock() if shared else None), window=2**16
                )
            )
            for _ in range(servers)
        ]
        try:
            run = f"{servers}-{shared}"
            await asyncio.gather(*(_fill(log, f"warm-{run}-{n}", 5) for n, log in enumerate(logs)))
            started = time.perf_counter()
            await asyncio.gather(*(_fill(log, f"{run}-{n}", FRAMES) for n, log in enumerate(logs)))
            seconds = time.perf_counter() - started
        finally:
            for log in logs:
                await asyncio.to_thread(log.database.close)
        rows.append(asdict(LogRow(servers, shared, round(servers * SESSIONS * FRAMES / seconds))))
    return rows


async def _fill(log: ResultLog, name: str, frames: int) -> None:
    await asyncio.gather(*(_session(log, (name, str(n)), frames) for n in range(SESSIONS)))


async def _session(log: ResultLog, key: SessionKey, frames: int) -> None:
    await log.resume_after(key)
    places = asyncio.Semaphore(IN_FLIGHT)
    outcome = types_pb2.FrameOutcome()
    outcome.analysis.tasks["detection"].task = "detection"

    async def one(sequence: int) -> None:
        async with places:
            frame = NewFrame(sequence, (b"bundle", 0), bytes(PAYLOAD_BYTES))
            (accepted,) = await log.accept(key, [frame])
            assert accepted.submission is not None
            await log.complete(accepted.submission, outcome)

    await asyncio.gather(*(one(sequence) for sequence in range(1, frames + 1)))
