"""A worker as its server sees it: started, spoken to, and what it ended with."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any

import structlog

from cloud_server.engine.api import TaskStatus
from cloud_server.engine.process import messages
from cloud_server.engine.process.channel import packed, read
from cloud_server.engine.spec import EngineSpec
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import worker_pb2
from shared.wire import error_from_message

MODULE = "cloud_server.engine.process.worker"
MAX_LINE_BYTES = 2**20
SECRETS = ("FEATHERWIRE_DATABASE", "FEATHERWIRE_TOKEN")
"""Variables that a worker has no business with: it reads what strangers sent."""

_LEVELS = {"debug", "info", "warning", "error"}


class Child:
    """One worker process. Made by ``start``; ``run`` is the rest of its life."""

    def __init__(self, number: int, process: asyncio.subprocess.Process) -> None:
        self.number = number
        self.pid = process.pid
        self.tasks: dict[str, TaskStatus] = {}
        self.queues: dict[str, int] = {}
        self._process = process
        self._saying = asyncio.create_task(self._relay())
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter

    @classmethod
    async def start(cls, number: int, spec: EngineSpec, log_level: str) -> Child:
        """Start a process, and wait until it has loaded everything.

        Raises ``FeatherwireError``: what the worker says, or ``worker_failed``.
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
        """Ask for a frame."""
        self._writer.write(packed(worker_pb2.WorkerRequest(analyse=message)))

    def cancel(self, frame_id: int) -> None:
        """Nobody waits for that frame any more."""
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
        """Wait for the end, and for the last that it said."""
        code = await self._process.wait()
        # What it started itself may hold the pipe open.
        await asyncio.wait({self._saying}, timeout=1.0)
        self._saying.cancel()
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
            said = _parsed(line)
            if said is None:
                log.warning("worker_wrote", text=line.decode(errors="replace").rstrip()[:1000])
                continue
            level = said.pop("level", "info")
            said.pop("timestamp", None)
            getattr(log, level if level in _LEVELS else "info")(**said)


def _parsed(line: bytes) -> dict[str, Any] | None:
    """A line of structlog's; None for any other."""
    try:
        said = json.loads(line)
    except ValueError:
        return None
    return said if isinstance(said, dict) and isinstance(said.get("event"), str) else None


def _environment() -> dict[str, str]:
    """Ours, without secrets, and with the places that we import from."""
    kept = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return kept | {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
