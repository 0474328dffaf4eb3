"""Worker processes behind the engine's contract."""

from __future__ import annotations

import asyncio
import itertools
import signal
import time
from dataclasses import dataclass, field

import structlog

from cloud_server.engine.api import EngineFrame, EngineOutcome, TaskStatus
from cloud_server.engine.process import messages
from cloud_server.engine.process.child import Child
from cloud_server.engine.process.waiting import Job, Waiting
from cloud_server.engine.rules import closed, late
from cloud_server.engine.spec import EngineSpec
from cloud_server.telemetry.metrics import Metrics
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import worker_pb2

PAUSES_S = (0.0, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Before a worker is started again; from the beginning once it has answered a frame."""

GRACE_S = 10.0
"""How long there may be no worker before the engine counts as dead."""

HUNG_S = 30.0
"""A worker that has not answered so long after a frame's deadline is killed."""

SWEEP_S = 0.1
_SIGKILL = signal.SIGKILL.name
INLINE_BYTES = 256 * 2**10
"""Outcomes up to this size are read on the event loop; larger ones in a thread."""


@dataclass(eq=False)
class _Slot:
    """A worker's place: its process while it runs, and the frames that it has."""

    number: int
    child: Child | None = None
    jobs: dict[int, Job] = field(default_factory=dict)
    failures: int = 0
    """Starts since a frame was answered."""


class ProcessEngine:
    """Workers that each hold a LocalEngine. Made by ``ProcessEngine.open``.

    ``tasks``, ``alive`` and ``queues`` may be read in any thread.

    A frame whose worker dies is given to another; its deadline begins anew, and does not run while
    there is no worker. One that workers die of, with no other frame, is answered in the end with
    ``worker_crashed``; ``cloud_server.engine.rules`` says when.
    """

    def __init__(
        self, spec: EngineSpec, count: int, metrics: Metrics | None = None, log_level: str = "info"
    ) -> None:
        self._spec = spec
        self._metrics = metrics or Metrics()
        self._log_level = log_level
        self._slots = [_Slot(number) for number in range(count)]
        self._waiting = Waiting(capacity=spec.counts.queue_size)
        self._ids = itertools.count(1)
        self._tasks: dict[str, TaskStatus] = {}
        self._stages: tuple[str, ...] = ()
        self._last_seen = 0.0
        self._closing = False
        self._background: list[asyncio.Task[None]] = []
        self._reading: set[asyncio.Task[None]] = set()
        self._metrics.worker_processes.set_function(lambda: float(len(self._ready)))

    @classmethod
    async def open(
        cls,
        spec: EngineSpec,
        count: int,
        *,
        metrics: Metrics | None = None,
        log_level: str = "info",
    ) -> ProcessEngine:
        """Start ``count`` workers; raises what the first that cannot be opened says."""
        engine = cls(spec, count, metrics, log_level)
        starts = [asyncio.create_task(engine._start(slot)) for slot in engine._slots]
        try:
            await asyncio.gather(*starts)
        except BaseException:
            for start in starts:
                start.cancel()
            await asyncio.gather(*starts, return_exceptions=True)
            await engine.close()
            raise
        first = engine._slots[0].child
        assert first is not None, "it has just been started"
        engine._tasks = first.tasks
        engine._stages = tuple(first.queues)
        engine._background = [
            *(asyncio.create_task(engine._keep(slot)) for slot in engine._slots),
            asyncio.create_task(engine._sweep()),
        ]
        return engine

    # -- the contract ----------------------------------------------------------------------------

    @property
    def tasks(self) -> dict[str, TaskStatus]:
        return dict(self._tasks)

    @property
    def alive(self) -> bool:
        """Whether a worker runs, or one did ``GRACE_S`` ago."""
        return bool(self._ready) or time.monotonic() - self._last_seen < GRACE_S

    @property
    def queues(self) -> dict[str, int]:
        """Of all workers together, as each said within the last second; and who waits for one."""
        found = {"workers": len(self._waiting)}
        for stage in self._stages:
            found[stage] = sum(
                slot.child.queues.get(stage, 0) for slot in self._ready if slot.child
            )
        return found

    async def submit(self, frame: EngineFrame) -> EngineOutcome:
        if self._closing:
            return EngineOutcome(error=closed())
        now = time.monotonic()
        future: asyncio.Future[EngineOutcome] = asyncio.get_running_loop().create_future()
        job = Job(next(self._ids), frame, future, now + frame.deadline_s, now)
        self._waiting.add(job)
        self._hand_out()
        try:
            return await future
        finally:
            if future.cancelled():
                self._give_up(job)

    async def close(self) -> bool:
        """Stop the workers, those that are busy too; what waits is answered with engine_closed."""
        self._closing = True
        for task in self._background:
            task.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)
        for job in [*self._waiting, *(job for slot in self._slots for job in slot.jobs.values())]:
            _answer(job, EngineOutcome(error=closed()))
        children = [slot.child for slot in self._slots if slot.child is not None]
        await asyncio.gather(*(child.close() for child in children))
        return True

    # -- handing out -----------------------------------------------------------------------------

    @property
    def _ready(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.child is not None]

    def _hand_out(self) -> None:
        """Give what waits to whoever has room."""
        now = time.monotonic()
        while (chosen := self._waiting.next(self._ready)) is not None:
            slot, job = chosen
            assert slot.child is not None
            job.given_at = now
            slot.jobs[job.id] = job
            left_s = max(0.001, job.expires_at - now)
            slot.child.give(messages.frame_to_message(job.frame, job.id, left_s))

    def _give_up(self, job: Job) -> None:
        """Its caller has gone."""
        self._waiting.remove(job)
        for slot in self._slots:
            if slot.jobs.pop(job.id, None) is not None and slot.child is not None:
                slot.child.cancel(job.id)
        self._hand_out()

    def _analysed(self, slot: _Slot, message: worker_pb2.FrameAnalysed) -> None:
        job = slot.jobs.pop(message.id, None)
        if job is None:
            return
        slot.failures = 0
        self._hand_out()
        waited_ms = (job.given_at - job.queued_at) * 1e3
        if message.ByteSize() <= INLINE_BYTES:
            _answer(job, _read(message, waited_ms))
            return

        async def read() -> None:
            _answer(job, await asyncio.to_thread(_read, message, waited_ms))

        task = asyncio.create_task(read())
        self._reading.add(task)
        task.add_done_callback(self._reading.discard)

    # -- the workers' lives ----------------------------------------------------------------------

    async def _start(self, slot: _Slot) -> None:
        slot.child = await Child.start(slot.number, self._spec, self._log_level)
        self._log(slot).info("worker_started")

    async def _keep(self, slot: _Slot) -> None:
        """Run the worker, and start it again whenever it ends, until cancelled."""
        while True:
            if slot.child is not None:
                cause = await slot.child.run(lambda message: self._analysed(slot, message))
                self._bury(slot, cause)
            pause_s = PAUSES_S[min(slot.failures, len(PAUSES_S) - 1)]
            slot.failures += 1
            await asyncio.sleep(pause_s)
            try:
                await self._start(slot)
            except FeatherwireError as error:
                self._metrics.worker_deaths.labels("start").inc()
                self._log(slot).error("worker_not_started", **error.to_dict())
            except OSError as error:  # no process, no socket: the machine is short of them
                self._metrics.worker_deaths.labels("start").inc()
                self._log(slot).error("worker_not_started", error=str(error))
            self._hand_out()

    def _bury(self, slot: _Slot, cause: str) -> None:
        """A worker has died: its frames go to others, but for one that it died of again."""
        self._last_seen = time.monotonic()
        self._log(slot).error("worker_died", cause=cause, frames=len(slot.jobs))
        self._metrics.worker_deaths.labels(cause).inc()
        jobs, slot.jobs, slot.child = list(slot.jobs.values()), {}, None
        again = []
        for job in jobs:
            job.expires_at = self._last_seen + job.frame.deadline_s
            if len(jobs) == 1:
                job.deaths.count(killed=cause == _SIGKILL)
            if job.deaths.enough:
                _answer(job, EngineOutcome(error=job.deaths.error(cause)))
            else:
                again.append(job)
        self._metrics.resubmitted.inc(len(again))
        self._waiting.add_again(again)
        self._hand_out()

    async def _sweep(self) -> None:
        """See to deadlines: of frames that wait for a worker, and of workers that hang."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(SWEEP_S)
            now = time.monotonic()
            if self._ready:
                self._last_seen = now
            for job in list(self._waiting):
                if not self._ready:
                    job.expires_at += now - before
                elif job.expires_at < now:
                    self._waiting.remove(job)
                    _answer(job, EngineOutcome(error=late(job.frame.deadline_s)))
            for slot in self._ready:
                hung = [job for job in slot.jobs.values() if job.expires_at + HUNG_S < now]
                if hung and slot.child is not None:
                    self._log(slot).error("worker_hung", frames=len(slot.jobs))
                    slot.child.kill()
            before = now

    def _log(self, slot: _Slot) -> structlog.typing.FilteringBoundLogger:
        pid = None if slot.child is None else slot.child.pid
        bound: structlog.typing.FilteringBoundLogger = structlog.get_logger().bind(
            worker=slot.number, worker_pid=pid
        )
        return bound


def _answer(job: Job, outcome: EngineOutcome) -> None:
    if not job.future.done():
        job.future.set_result(outcome)


def _read(message: worker_pb2.FrameAnalysed, waited_ms: float) -> EngineOutcome:
    try:
        return messages.outcome_of(message, waited_ms)
    except Exception as error:  # noqa: BLE001  # whatever a worker says, the frame gets its outcome
        structlog.get_logger().error("worker_not_understood", exc_info=error)
        return EngineOutcome(
            error=FeatherwireError("internal_error", "what a worker said cannot be read")
        )
