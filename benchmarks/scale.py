"""How engines and logs grow: those with 1, 2 and 4 workers or servers, measured, and a page.

Engines run a task of a fixed cost, and frames that cost nothing. Servers put frames with a result
each into one PostgreSQL log, alone or taking turns.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from numpy.typing import NDArray

from cloud_server.database import Database
from cloud_server.database.locks import CommitLock
from cloud_server.engine import Engine, EngineFrame
from cloud_server.engine.processes import ProcessEngine
from cloud_server.engine.ray import RayEngine, RayScale
from cloud_server.engine.spec import EngineSpec
from cloud_server.results.log import ResultLog
from cloud_server.results.records import NewFrame, SessionKey
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle
from shared.proto.featherwire.v1 import types_pb2
from shared.results import ModelInfo, TaskResult

WORKERS = (1, 2, 4)
PHOTO = (64, 64)
"""Height and width in pixels: small, so that decoding takes little beside the task."""

A_WORKER = 40
"""Frames that are timed, for each worker."""

IN_FLIGHT = 4
"""Frames in flight, for each worker."""

EMPTY_FRAMES = 400
STORE_BYTES = 80 * 2**20

Open = Callable[[EngineSpec, int], AbstractAsyncContextManager[Engine]]


@dataclass(frozen=True, slots=True)
class Row:
    """One engine with so many workers. Milliseconds are of frames of which nothing is asked."""

    engine: str
    workers: int
    frames_per_second: float
    one_at_a_time_ms: float
    together_ms: float
    cpu_ms: float
    """Of this process, for one of the frames that came together."""


async def measure(bundle: Bundle, report: Callable[[str], None]) -> list[dict[str, Any]]:
    """Rows of all engines; those of Ray where it is installed."""
    pixels = np.random.default_rng(1).integers(0, 255, (*PHOTO, 3), np.uint8)
    bitstream = EdgeEncoder(bundle).encode(pixels, state=0)
    spec = EngineSpec(
        bundle=bundle.origin,
        bundles=(),
        torch_threads=1,
        more_tasks={"pause": "benchmarks.scale:open_pause"},
    )
    busy = EngineFrame((bitstream,), ("pause",))
    empty = EngineFrame((bitstream,))
    rows: list[Row] = []
    async with _ray() as ray:
        engines: dict[str, tuple[Open, tuple[int, ...]]] = {
            "local": (_local, (1,)),
            "process": (_processes, WORKERS),
        }
        if ray is None:
            report("Ray is not installed: left out")
        else:
            engines["ray"] = (ray, WORKERS)
        for name, (open_one, counts) in engines.items():
            for workers in counts:
                async with open_one(spec, workers) as engine:
                    row = await _row(engine, name, workers, busy, empty)
                report(f"{name} {workers}: {row.frames_per_second} frames/s")
                rows.append(row)
    return [asdict(row) for row in rows]


async def _row(
    engine: Engine, name: str, workers: int, busy: EngineFrame, empty: EngineFrame
) -> Row:
    in_flight = IN_FLIGHT * workers
    await _run(engine, busy, in_flight, in_flight)
    await _run(engine, empty, 50, 8)
    throughput_s = await _run(engine, busy, A_WORKER * workers, in_flight)
    alone_s = await _run(engine, empty, EMPTY_FRAMES // 4, 1)
    before = psutil.Process().cpu_times()
    together_s = await _run(engine, empty, EMPTY_FRAMES, 32)
    after = psutil.Process().cpu_times()
    cpu_s = after.user + after.system - before.user - before.system
    return Row(
        name,
        workers,
        round(A_WORKER * workers / throughput_s, 1),
        round(alone_s / (EMPTY_FRAMES // 4) * 1e3, 2),
        round(together_s / EMPTY_FRAMES * 1e3, 2),
        round(cpu_s / EMPTY_FRAMES * 1e3, 2),
    )


async def _run(engine: Engine, frame: EngineFrame, count: int, in_flight: int) -> float:
    """Seconds that ``count`` frames took. Raises what went wrong with one."""
    places = asyncio.Semaphore(in_flight)

    async def one() -> None:
        async with places:
            outcome = await engine.submit(frame)
        if outcome.error is not None:
            raise outcome.error

    started = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(count)))
    return time.perf_counter() - started


@asynccontextmanager
async def _local(spec: EngineSpec, _workers: int) -> AsyncIterator[Engine]:
    engine = await spec.open()
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def _processes(spec: EngineSpec, workers: int) -> AsyncIterator[Engine]:
    engine = await ProcessEngine.open(spec, workers, log_level="warning")
    try:
        yield engine
    finally:
        await engine.close()


@asynccontextmanager
async def _ray() -> AsyncIterator[Open | None]:
    """A cluster of a head and two nodes in processes here, and what opens engines on it."""
    with _environment(
        PYTHONPATH=os.getcwd(),
        RAY_USAGE_STATS_ENABLED="0",
        RAY_ENABLE_AUTO_CONNECT="0",
        RAY_worker_niceness="0",
    ):
        try:
            import ray
            from ray import serve
            from ray.cluster_utils import Cluster
        except ImportError:
            yield None
            return
        cluster = Cluster(  # in this thread, for its signals
            initialize_head=True,
            head_node_args={
                "num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES,
            },
        )  # fmt: skip
        try:
            for _ in range(2):
                cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES)

            @asynccontextmanager
            async def opened(spec: EngineSpec, workers: int) -> AsyncIterator[Engine]:
                scale = RayScale(
                    min_replicas=workers, max_replicas=workers, max_in_flight=IN_FLIGHT * 16
                )
                engine = await RayEngine.open(
                    spec, scale, address=cluster.address, log_level="warning"
                )
                try:
                    yield engine
                finally:
                    await engine.close()
                    await asyncio.to_thread(serve.delete, engine.name)

            yield opened
        finally:
            ray.shutdown()
            cluster.shutdown()


@contextmanager
def _environment(**values: str) -> Any:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value


# -- logs that servers share ---------------------------------------------------------------------

SESSIONS = 8
"""Of each server."""

FRAMES_IN_FLIGHT = 8
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
        logs = [await asyncio.to_thread(_open_log, url, shared) for _ in range(servers)]
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


def _open_log(url: str, shared: bool) -> ResultLog:
    database = Database(url, commit_lock=CommitLock() if shared else None)
    return ResultLog(database, window=2**16)


async def _fill(log: ResultLog, name: str, frames: int) -> None:
    await asyncio.gather(*(_fill_session(log, (name, str(n)), frames) for n in range(SESSIONS)))


async def _fill_session(log: ResultLog, key: SessionKey, frames: int) -> None:
    await log.resume_after(key)
    places = asyncio.Semaphore(FRAMES_IN_FLIGHT)
    outcome = types_pb2.FrameOutcome()
    outcome.analysis.tasks["detection"].task = "detection"

    async def one(sequence: int) -> None:
        async with places:
            frame = NewFrame(sequence, (b"bundle", 0), bytes(PAYLOAD_BYTES))
            (accepted,) = await log.accept(key, [frame])
            assert accepted.submission is not None
            await log.complete(accepted.submission, outcome)

    await asyncio.gather(*(one(sequence) for sequence in range(1, frames + 1)))


# -- the task of a fixed cost, which workers import ------------------------------------------------

PAUSE_S = 0.1


class Pause:
    """Finds nothing, in ``PAUSE_S`` a picture."""

    name = "pause"

    def __init__(self) -> None:
        self.models = [ModelInfo(name="pause", version="1", licence="Apache-2.0")]

    def run(self, images: Sequence[NDArray[np.uint8]]) -> list[TaskResult]:
        time.sleep(PAUSE_S * len(images))
        return [TaskResult(task="pause", model=self.models, detections=[]) for _ in images]


def open_pause() -> Pause:
    """As ``EngineSpec.more_tasks`` wants it."""
    return Pause()


# -- the page --------------------------------------------------------------------------------------

_COLUMNS = {
    "engine": "engine",
    "workers": "workers",
    "frames_per_second": "frames/s",
    "one_at_a_time_ms": "hand-over, one at a time, ms",
    "together_ms": "hand-over, 32 together, ms",
    "cpu_ms": "of it processor time here, ms",
}


def page(document: dict[str, Any]) -> str:
    """Markdown."""
    lines = [
        f"A task of {PAUSE_S * 1e3:g} ms that uses no processor, one a worker; "
        f"{PHOTO[1]}x{PHOTO[0]} photos, {IN_FLIGHT} in flight a worker; {document['cores']} cores, "
        "shared with other work. The hand-over is that of frames of which nothing is asked: what "
        "the engine itself costs.",
        "",
        "| " + " | ".join(_COLUMNS.values()) + " |",
        "| --- |" + " ---: |" * (len(_COLUMNS) - 1),
    ]
    lines += [
        "| " + " | ".join(str(row[name]) for name in _COLUMNS) + " |" for row in document["engines"]
    ]
    if document["log"]:
        lines += [
            "",
            f"Frames of {PAYLOAD_BYTES} bytes, each accepted and completed in one PostgreSQL log; "
            f"{SESSIONS} sessions a server with {FRAMES_IN_FLIGHT} frames in flight; servers and "
            "database on the same cores.",
            "",
            "| servers | taking turns | frames/s, all together |",
            "| ---: | --- | ---: |",
        ]
        lines += [
            f"| {row['servers']} | {'yes' if row['shared'] else 'no'} | "
            f"{row['frames_per_second']:g} |"
            for row in document["log"]
        ]
    return "\n".join(lines) + "\n"


def write(document: dict[str, Any], folder: Path) -> str:
    """Write scale.md and scale.json; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    text = page(document)
    (folder / "scale.md").write_text(text)
    (folder / "scale.json").write_text(json.dumps(document, indent=1) + "\n")
    return text
