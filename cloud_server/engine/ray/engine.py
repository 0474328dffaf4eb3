"""The engine on Ray: replicas of a cluster behind the engine's contract."""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from cloud_server.engine import messages
from cloud_server.engine.api import EngineFrame, EngineOutcome, TaskStatus
from cloud_server.engine.processes import GRACE_S, INLINE_BYTES
from cloud_server.engine.ray import application
from cloud_server.engine.ray.application import ALONE, FRAMES, RayScale
from cloud_server.engine.spec import EngineSpec
from cloud_server.engine.waiting import Deaths, deadline_exceeded, engine_closed
from cloud_server.telemetry.metrics import Metrics
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import worker_pb2

SLACK_S = 2.0
"""Added to deadlines for the way there and back."""

BUSY_S = 0.05
"""Before a frame that Serve has no room for is offered again; times 1 to 2."""

REMEMBERED_DEAD = 64
"""Replicas that died: each is logged once, however many frames it had."""

LOOK_S = 1.0
"""Between looks at how many replicas run."""

HANDLES_S = 15.0
"""How long handles may take to end what Ray runs for them; it gives its own part of that 10 s."""


@dataclass(eq=False)
class _Job:
    frame: EngineFrame
    limit: asyncio.Timeout
    deployment: str = FRAMES
    deaths: Deaths = field(default_factory=Deaths)
    refused: bool = False
    """Whether Serve had no room for it when it was offered last."""


class RayEngine:
    """Replicas that each hold a LocalEngine. Made by ``RayEngine.open``.

    A frame whose node died goes to another replica; one whose replica died otherwise goes to a
    replica of its own kind, where it is alone, and is answered with ``worker_crashed`` when that
    dies of it too; ``cloud_server.engine.waiting`` says how often. Its deadline begins anew then,
    and does not run while there is no replica. A frame for which the cluster has no room until its
    deadline is answered with ``busy``.
    """

    def __init__(self, name: str, scale: RayScale, metrics: Metrics) -> None:
        self.name = name
        """Of the Serve application."""
        self._metrics = metrics
        self._places = asyncio.Semaphore(scale.max_in_flight)
        frames, alone = application.handles(name)
        self._handles = {FRAMES: frames, ALONE: alone}
        self._running = {FRAMES: 1, ALONE: 0}
        self._last_seen = time.monotonic()
        self._jobs: set[_Job] = set()
        self._in_flight = 0
        self._closing = False
        self._dead: deque[str | None] = deque(maxlen=REMEMBERED_DEAD)
        self._calls: set[asyncio.Task[Any]] = set()
        self.tasks_found: dict[str, TaskStatus] = {}
        self._looking = asyncio.create_task(self._look())
        self._metrics.worker_processes.set_function(lambda: float(sum(self._running.values())))

    @classmethod
    async def open(
        cls,
        spec: EngineSpec,
        scale: RayScale,
        *,
        address: str = "auto",
        metrics: Metrics | None = None,
        log_level: str = "info",
    ) -> RayEngine:
        """Join the cluster, and start the application where no other server has.

        Raises ``FeatherwireError``: ray_missing, ray_unreachable, worker_failed.
        """
        await asyncio.to_thread(application.connect, address)
        name = await asyncio.to_thread(application.start, spec, scale, log_level)
        engine = cls(name, scale, metrics or Metrics())
        try:
            opened = worker_pb2.WorkerOpened.FromString(await engine._opened())
        except BaseException:
            await engine.close()
            raise
        engine.tasks_found = {one.name: messages.task_of(one) for one in opened.tasks}
        structlog.get_logger().info("ray_application", name=name)
        return engine

    # -- the contract ----------------------------------------------------------------------------

    @property
    def tasks(self) -> dict[str, TaskStatus]:
        return dict(self.tasks_found)

    @property
    def alive(self) -> bool:
        """Whether a replica runs, or did ``GRACE_S`` ago: Ray says so, or one has answered."""
        return time.monotonic() - self._last_seen < GRACE_S

    @property
    def width(self) -> int:
        """Replicas that run; one at least."""
        return max(1, self._running[FRAMES])

    @property
    def queues(self) -> dict[str, int]:
        """Frames that wait in this server, those given to the cluster, those under suspicion."""
        suspects = sum(job.deployment == ALONE for job in self._jobs)
        return {
            "workers": len(self._jobs) - self._in_flight,
            "cluster": self._in_flight - suspects,
            "suspects": suspects,
        }

    async def submit(self, frame: EngineFrame) -> EngineOutcome:
        if self._closing:
            return EngineOutcome(error=engine_closed())
        call = asyncio.create_task(self._submit(frame))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)
        try:
            return await call
        except asyncio.CancelledError:
            call.cancel()
            if self._closing and not _cancelled():
                return EngineOutcome(error=engine_closed())
            raise

    async def close(self) -> bool:
        """Leave the application as it is, for other servers may use it; but end what Ray runs for
        this engine's handles, which would go on counting frames for a cluster that may be gone."""
        self._closing = True
        self._looking.cancel()
        calls = list(self._calls)
        for call in calls:
            call.cancel()
        await asyncio.gather(self._looking, *calls, return_exceptions=True)
        try:
            async with asyncio.timeout(HANDLES_S):
                await asyncio.gather(*(one.shutdown_async() for one in self._handles.values()))
        except Exception as error:  # noqa: BLE001  # Ray's own kinds; nothing depends on it
            structlog.get_logger().warning("ray_handles_left", error=str(error)[:500])
        return True

    # -- a frame's way ---------------------------------------------------------------------------

    async def _submit(self, frame: EngineFrame) -> EngineOutcome:
        job: _Job | None = None
        try:
            async with asyncio.timeout(frame.deadline_s + SLACK_S) as limit:
                job = _Job(frame, limit)
                self._jobs.add(job)
                queued_at = time.monotonic()
                async with self._places:
                    self._in_flight += 1
                    try:
                        return await self._analyse(job, queued_at)
                    finally:
                        self._in_flight -= 1
        except TimeoutError:
            if job is not None and job.refused:
                return EngineOutcome(error=_busy(frame.deadline_s))
            return EngineOutcome(error=deadline_exceeded(frame.deadline_s))
        finally:
            if job is not None:
                self._jobs.discard(job)

    async def _analyse(self, job: _Job, queued_at: float) -> EngineOutcome:
        from ray.serve.exceptions import BackPressureError

        while True:
            given_at = time.monotonic()
            try:
                data = await self._call(job)
            except BackPressureError:
                job.refused = True
                await asyncio.sleep(BUSY_S * random.uniform(1, 2))
                continue
            except Exception as error:  # noqa: BLE001  # the replica answers what is the frame's
                cause = _cause(error)
                self._died(job, cause, error)
                if job.deaths.enough:
                    return EngineOutcome(error=job.deaths.error(cause))
                continue
            # Ray's own word of a new replica may come later than what the replica does.
            self._last_seen = time.monotonic()
            waited_ms = (given_at - queued_at) * 1e3
            if len(data) <= INLINE_BYTES:
                return _outcome(data, waited_ms)
            return await asyncio.to_thread(_outcome, data, waited_ms)

    async def _call(self, job: _Job) -> bytes:
        expires_at = job.limit.when()
        assert expires_at is not None
        left_s = max(0.001, expires_at - SLACK_S - asyncio.get_running_loop().time())
        data = messages.frame_to_message(job.frame, 0, left_s).SerializeToString()
        response = self._handles[job.deployment].analyse.remote(data)
        job.refused = False
        try:
            answer: bytes = await response
        except asyncio.CancelledError:
            if not _cancelled():  # its replica was stopped, and nobody here
                raise ConnectionError("the replica was stopped") from None
            response.cancel()
            raise
        return answer

    def _died(self, job: _Job, cause: str, error: Exception) -> None:
        """Give the frame of a replica that died to another one, or to one where it is alone."""
        self._metrics.resubmitted.inc()
        alone = job.deployment == ALONE
        actor = getattr(error, "actor_id", None)
        if actor is None or actor not in self._dead:
            self._dead.append(actor)
            self._metrics.worker_deaths.labels(cause).inc()
            structlog.get_logger().error(
                "replica_died", cause=cause, alone=alone, error=" ".join(str(error).split())[:500]
            )
        if alone:
            job.deaths.count(killed=cause != "crash")
        elif cause == "crash":
            job.deployment = ALONE
        loop = asyncio.get_running_loop()
        job.limit.reschedule(loop.time() + job.frame.deadline_s + SLACK_S)

    # -- the replicas ----------------------------------------------------------------------------

    async def _opened(self) -> bytes:
        answer: bytes = await self._handles[FRAMES].opened.remote()
        return answer

    async def _look(self) -> None:
        """See how many replicas run; while there are none for a frame, its time stands still."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_S)
            try:
                async with asyncio.timeout(GRACE_S):
                    self._running = await asyncio.to_thread(application.running, self.name)
            except Exception as error:  # noqa: BLE001  # Ray's own kinds; it may come back
                structlog.get_logger().warning("ray_unreachable", error=str(error)[:500])
                self._running = dict.fromkeys(self._running, 0)
            now = time.monotonic()
            if self._running[FRAMES]:
                self._last_seen = now
            for job in self._jobs:
                if not self._running[job.deployment] and not job.limit.expired():
                    expires_at = job.limit.when()
                    assert expires_at is not None
                    with suppress(RuntimeError):  # it is over in this very moment
                        job.limit.reschedule(expires_at + now - before)
            before = now


def _outcome(data: bytes, waited_ms: float) -> EngineOutcome:
    return messages.outcome_of(worker_pb2.FrameAnalysed.FromString(data), waited_ms)


def _cause(error: Exception) -> str:
    """``crash`` of a replica's process, or what else took it: ``node``, ``stopped``."""
    from ray.exceptions import ActorDiedError, NodeDiedError

    text = str(error)
    if isinstance(error, NodeDiedError) or ("node" in text.lower() and "died because" in text):
        return "node"
    return "crash" if isinstance(error, ActorDiedError) else "stopped"


def _cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _busy(deadline_s: float) -> FeatherwireError:
    return FeatherwireError("busy", f"no worker had room for the frame within {deadline_s:g} s")
