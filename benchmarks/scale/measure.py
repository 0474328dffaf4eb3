"""Engines with 1, 2 and 4 workers, on a task of a fixed cost, and frames that cost nothing."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import psutil

from cloud_server.engine import Engine, EngineFrame
from cloud_server.engine.processes import ProcessEngine
from cloud_server.engine.ray import RayEngine, RayScale
from cloud_server.engine.spec import EngineSpec
from edge_client.encoder import EdgeEncoder
from shared.bundle import Bundle

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


async def measure(bundle: Bundle, say: Callable[[str], None]) -> list[dict[str, Any]]:
    """Rows of all engines; those of Ray where it is installed."""
    pixels = np.random.default_rng(1).integers(0, 255, (*PHOTO, 3), np.uint8)
    bitstream = EdgeEncoder(bundle).encode(pixels)
    spec = EngineSpec(
        bundle=bundle.origin,
        bundles=(),
        torch_threads=1,
        more_tasks={"pause": "benchmarks.scale.pause:open_pause"},
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
            say("Ray is not installed: left out")
        else:
            engines["ray"] = (ray, WORKERS)
        for name, (open_one, counts) in engines.items():
            for workers in counts:
                async with open_one(spec, workers) as engine:
                    row = await _row(engine, name, workers, busy, empty)
                say(f"{name} {workers}: {row.frames_per_second} frames/s")
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
