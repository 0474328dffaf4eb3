"""The worker's process: one LocalEngine, asked through the socket that it was started with.

    python -m cloud_server.engine.worker FD

It ends at once when its server does, however that ends: the socket is closed then. SIGTERM and
SIGINT are the server's to answer; a service manager sends them to all processes of a service, and
frames in flight are to be finished.
"""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

import structlog

from cloud_server.engine import messages
from cloud_server.engine.api import Engine, EngineOutcome
from cloud_server.engine.messages import packed, read
from cloud_server.engine.spec import EngineSpec
from cloud_server.telemetry.logs import configure_logs
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import worker_pb2
from shared.wire import error_to_message

STATUS_EVERY_S = 1.0
OOM_SCORE = 500
"""Added to what the kernel weighs when memory runs out: a worker goes before its server."""
EXIT_CANNOT_OPEN = 3
EXIT_STAGE_DIED = 4


def main() -> None:
    """Run until the server closes the socket."""
    faulthandler.enable()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE))
    asyncio.run(_Worker().run(socket.socket(fileno=int(sys.argv[1]))))


class _Worker:
    def __init__(self) -> None:
        self._engine: Engine | None = None
        self._frames: dict[int, asyncio.Task[None]] = {}

    async def run(self, link: socket.socket) -> NoReturn:
        reader, self._writer = await asyncio.open_connection(sock=link)
        opening: asyncio.Task[None] | None = None
        # Reading goes on while models are loaded, so that the end of the server is heard.
        while (request := await read(reader, worker_pb2.WorkerRequest)) is not None:
            match request.WhichOneof("request"):
                case "open":
                    opening = asyncio.create_task(self._open(request.open))
                    opening.add_done_callback(_check)
                case "analyse":
                    work = asyncio.create_task(self._analyse(request.analyse))
                    self._frames[request.analyse.id] = work
                    work.add_done_callback(_check)
                case "cancel":
                    if request.cancel in self._frames:
                        self._frames[request.cancel].cancel()
        os._exit(0)  # threads inside native code would hold up an orderly end

    async def _open(self, request: worker_pb2.OpenWorker) -> None:
        configure_logs(log_format="json", level=request.log_level)
        try:
            engine = await EngineSpec.model_validate_json(request.spec).open()
        except FeatherwireError as error:
            self._send(worker_pb2.WorkerReply(failed=error_to_message(error)))
            await self._writer.drain()
            os._exit(EXIT_CANNOT_OPEN)
        self._engine = engine
        opened = worker_pb2.WorkerOpened(
            tasks=[messages.task_message(task) for task in engine.tasks.values()],
            status=worker_pb2.WorkerStatus(queues=engine.queues),
        )
        self._send(worker_pb2.WorkerReply(opened=opened))
        while engine.alive:
            await asyncio.sleep(STATUS_EVERY_S)
            status = worker_pb2.WorkerStatus(queues=engine.queues)
            self._send(worker_pb2.WorkerReply(status=status))
        structlog.get_logger().error("stage_died", stages=engine.queues)
        os._exit(EXIT_STAGE_DIED)

    async def _analyse(self, request: worker_pb2.AnalyseFrame) -> None:
        try:
            assert self._engine is not None, "asked after it has opened"
            frame = messages.frame_from_message(request)
            outcome = await self._engine.submit(frame)
        except FeatherwireError as error:
            outcome = EngineOutcome(error=error)
        except Exception as error:  # noqa: BLE001  # whatever it is, the frame gets its outcome
            structlog.get_logger().error("engine_failed", exc_info=error)
            failed = FeatherwireError(
                "internal_error", f"the engine failed: {type(error).__name__}"
            )
            outcome = EngineOutcome(error=failed)
        finally:
            self._frames.pop(request.id, None)
        self._send(worker_pb2.WorkerReply(analysed=messages.outcome_message(request.id, outcome)))

    def _send(self, reply: worker_pb2.WorkerReply) -> None:
        """What is not read at once waits here: no more than the frames that were given."""
        self._writer.write(packed(reply))


def _check(task: asyncio.Task[None]) -> None:
    """A worker that cannot do its part is no use: let another be started."""
    if not task.cancelled() and (error := task.exception()) is not None:
        structlog.get_logger().error("worker_failed", exc_info=error)
        os._exit(1)


if __name__ == "__main__":
    main()
