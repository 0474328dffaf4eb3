"""The engine in processes of its own: a crash of native code takes one worker, and no frame.

                     ┌─ socket ─ worker 0: LocalEngine
submit ── queue ─────┤
                     └─ socket ─ worker 1: LocalEngine
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from cloud_server.engine import messages
from cloud_server.engine.api import EngineFrame, EngineOutcome, TaskStatus
from cloud_server.engine.messages import packed, read
from cloud_server.engine.spec import EngineSpec
from cloud_server.engine.waiting import Job, Waiting, deadline_exceeded, engine_closed
from cloud_server.telemetry.metrics import Metrics
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import worker_pb2
from shared.wire import error_from_message

MODULE = "cloud_server.engine.worker"
MAX_LINE_BYTES = 2**20
"""Of a worker's log; longer lines are dropped."""

SECRETS = ("FEATHERWIRE_DATABASE", "FEATHERWIRE_TOKEN")
"""Variables that workers do not get: they decode bytes from strangers."""

_LEVELS = {"debug", "info", "warning", "error"}

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
    ``worker_crashed``; ``cloud_server.engine.waiting`` says when.
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
        """Start ``count`` workers; raises the error of the first that cannot open."""
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
    def width(self) -> int:
        return len(self._slots) * self._spec.counts.width

    @property
    def queues(self) -> dict[str, int]:
        """Items of all workers, at most a second old, and frames that wait for a worker."""
        found = {"workers": len(self._waiting)}
        for stage in self._stages:
            found[stage] = sum(
                slot.child.queues.get(stage, 0) for slot in self._ready if slot.child
            )
        return found

    async def submit(self, frame: EngineFrame) -> EngineOutcome:
        if self._closing:
            return EngineOutcome(error=engine_closed())
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
            _answer(job, EngineOutcome(error=engine_closed()))
        children = [slot.child for slot in self._slots if slot.child is not None]
        await asyncio.gather(*(child.close() for child in children))
        return True

    # -- handing out -----------------------------------------------------------------------------

    @property
    def _ready(self) -> list[_Slot]:
        return [slot for slot in self._slots if slot.child is not None]

    def _hand_out(self) -> None:
        """Give waiting frames to workers that have room."""
        now = time.monotonic()
        while (chosen := self._waiting.next(self._ready)) is not None:
            slot, job = chosen
            assert slot.child is not None
            job.given_at = now
            slot.jobs[job.id] = job
            left_s = max(0.001, job.expires_at - now)
            slot.child.give(messages.frame_to_message(job.frame, job.id, left_s))

    def _give_up(self, job: Job) -> None:
        """Cancel a frame whose caller has gone."""
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
        """Give the frames of a dead worker to others, but for one that workers keep dying of."""
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
                    _answer(job, EngineOutcome(error=deadline_exceeded(job.frame.deadline_s)))
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
    except Exception as error:  # noqa: BLE001  # whatever a worker sends, the frame gets its outcome
        structlog.get_logger().error("worker_not_understood", exc_info=error)
        return EngineOutcome(
            error=FeatherwireError("internal_error", "the answer of a worker cannot be read")
        )


class Child:
    """A worker process as its server sees it. Made by ``start``; ``run`` is what follows."""

    def __init__(self, number: int, process: asyncio.subprocess.Process) -> None:
        self.number = number
        self.pid = process.pid
        self.tasks: dict[str, TaskStatus] = {}
        self.queues: dict[str, int] = {}
        self._process = process
        self._relaying = asyncio.create_task(self._relay())
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    @classmethod
    async def start(cls, number: int, spec: EngineSpec, log_level: str) -> Child:
        """Start a process, and wait until it has loaded everything.

        Raises ``FeatherwireError``: the worker's own, or ``worker_failed``.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", MODULE, str(theirs.fileno()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                limit=MAX_LINE_BYTES,
                pass_fds=(theirs.fileno(),),
                env=_environment(),
            )  # fmt: skip
        child = cls(number, process)
        try:
            child._reader, child._writer = await asyncio.open_connection(sock=ours)
            request = worker_pb2.OpenWorker(
                number=number, spec=spec.model_dump_json(), log_level=log_level
            )
            child._writer.write(packed(worker_pb2.WorkerRequest(open=request)))
            reply = await read(child._reader, worker_pb2.WorkerReply)
            if reply is None:
                cause = await child._ended()
                raise FeatherwireError(
                    "worker_failed", f"worker {number} ended while it loaded: {cause}", cause=cause
                )
            if reply.WhichOneof("reply") == "failed":
                raise error_from_message(reply.failed)
        except BaseException:
            await child.close(0)
            raise
        child.tasks = {task.name: messages.task_of(task) for task in reply.opened.tasks}
        child.queues = dict(reply.opened.status.queues)
        return child

    async def run(self, analysed: Callable[[worker_pb2.FrameAnalysed], None]) -> str:
        """Hand on outcomes until the process ends; returns what it ended with, as ``SIGKILL``."""
        while (reply := await read(self._reader, worker_pb2.WorkerReply)) is not None:
            match reply.WhichOneof("reply"):
                case "analysed":
                    analysed(reply.analysed)
                case "status":
                    self.queues = dict(reply.status.queues)
        return await self.close()

    def give(self, message: worker_pb2.AnalyseFrame) -> None:
        """Send the worker a frame to analyse."""
        self._writer.write(packed(worker_pb2.WorkerRequest(analyse=message)))

    def cancel(self, frame_id: int) -> None:
        """Tell the worker that nobody waits for a frame any more."""
        self._writer.write(packed(worker_pb2.WorkerRequest(cancel=frame_id)))

    def kill(self) -> None:
        """End a process that does not answer."""
        if self._process.returncode is None:
            self._process.kill()

    async def close(self, timeout_s: float = 5.0) -> str:
        """Tell the process to end, and see to it; returns what it ended with, as ``SIGKILL``."""
        if hasattr(self, "_writer"):
            self._writer.close()
        try:
            async with asyncio.timeout(timeout_s):
                await self._process.wait()
        except TimeoutError:
            self.kill()
        return await self._ended()

    async def _ended(self) -> str:
        """Wait for the process to end, and for the last lines of its log."""
        code = await self._process.wait()
        # What it started itself may hold the pipe open.
        await asyncio.wait({self._relaying}, timeout=1.0)
        self._relaying.cancel()
        return signal.Signals(-code).name if code < 0 else f"exit {code}"

    async def _relay(self) -> None:
        """Put the worker's log into ours, and what its libraries write."""
        log = structlog.get_logger().bind(worker=self.number, worker_pid=self.pid)
        assert self._process.stdout is not None
        while True:
            try:
                line = await self._process.stdout.readline()
            except ValueError:
                continue  # longer than a line may be: dropped
            if not line:
                return
            entry = _parsed(line)
            if entry is None:
                log.warning("worker_wrote", text=line.decode(errors="replace").rstrip()[:1000])
                continue
            level = entry.pop("level", "info")
            entry.pop("timestamp", None)
            getattr(log, level if level in _LEVELS else "info")(**entry)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The fields of a line of structlog's; None for any other line."""
    try:
        entry = json.loads(line)
    except ValueError:
        return None
    return entry if isinstance(entry, dict) and isinstance(entry.get("event"), str) else None


def _environment() -> dict[str, str]:
    """The server's environment without secrets, and with its import path."""
    kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return kept | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
