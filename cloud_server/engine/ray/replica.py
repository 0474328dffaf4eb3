"""One replica: a LocalEngine in a process of Ray's, asked with messages as bytes."""

from __future__ import annotations

import asyncio
import faulthandler
import itertools
import time

from cloud_server.engine.api import EngineOutcome
from cloud_server.engine.process import messages
from cloud_server.engine.spec import EngineSpec
from cloud_server.serve.logs import configure_logs
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import worker_pb2

HUNG_S = 30.0
"""A replica that has not answered so long after a frame's deadline is replaced."""


class Replica:
    """What Serve runs. Frames that are asked for at once share batches inside the engine."""

    def __init__(self, spec: str, log_level: str, *_bound: object) -> None:
        """spec: JSON of EngineSpec."""
        faulthandler.enable()
        configure_logs(log_format="json", level=log_level)
        self._spec = EngineSpec.model_validate_json(spec)
        self._opening = asyncio.Lock()
        self._overdue_at: dict[int, float] = {}
        self._numbers = itertools.count()

    async def open(self) -> None:
        """Load everything. Raises ``FeatherwireError``."""
        self._engine = await self._spec.open()

    async def check_health(self) -> None:
        """Called by Serve: before the replica gets frames, and every few seconds from then on."""
        async with self._opening:
            if not hasattr(self, "_engine"):
                await self.open()
        if not self._engine.alive:
            raise RuntimeError(f"a stage has died: {self._engine.queues}")
        now = time.monotonic()
        if any(overdue_at < now for overdue_at in self._overdue_at.values()):
            raise RuntimeError(f"frames are not answered: {self._engine.queues}")

    async def opened(self) -> bytes:
        """``WorkerOpened``: the tasks, and the names of the stages."""
        message = worker_pb2.WorkerOpened(
            tasks=[messages.task_message(task) for task in self._engine.tasks.values()],
            status=worker_pb2.WorkerStatus(queues=self._engine.queues),
        )
        return message.SerializeToString()

    async def analyse(self, data: bytes) -> bytes:
        """``FrameAnalysed`` for ``AnalyseFrame``; what goes wrong with the frame is inside."""
        request = worker_pb2.AnalyseFrame.FromString(data)
        number = next(self._numbers)
        self._overdue_at[number] = time.monotonic() + request.deadline_s + HUNG_S
        try:
            outcome = await self._engine.submit(messages.frame_from_message(request))
        except FeatherwireError as error:
            outcome = EngineOutcome(error=error)
        finally:
            del self._overdue_at[number]
        return messages.outcome_message(request.id, outcome).SerializeToString()
