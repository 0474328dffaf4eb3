"""The engine as a server uses it: what it does is counted and timed."""

from __future__ import annotations

from cloud_server.engine.api import Engine, EngineFrame, EngineOutcome, TaskStatus
from cloud_server.telemetry.metrics import OK, FrameNotes, Metrics
from shared.bundle import Bundle


class ObservedEngine:
    """Counts and times what ``engine`` does."""

    def __init__(self, engine: Engine, metrics: Metrics, *bundles: Bundle) -> None:
        """bundles: that frames are of; others are counted as ``unknown``."""
        self._engine, self._metrics = engine, metrics
        self._notes = FrameNotes(metrics, bundles)
        metrics.workers_alive.set_function(lambda: float(engine.alive))

    @property
    def tasks(self) -> dict[str, TaskStatus]:
        """The tasks of the engine by name, usable or not."""
        return self._engine.tasks

    @property
    def alive(self) -> bool:
        """Whether the engine can work."""
        return self._engine.alive

    @property
    def width(self) -> int:
        """Frames that the engine works on at a time."""
        return self._engine.width

    @property
    def queues(self) -> dict[str, int]:
        """Items inside every stage or waiting for it."""
        return self._engine.queues

    async def submit(self, frame: EngineFrame) -> EngineOutcome:
        """Analyse one frame, and note what it took and what came of it."""
        outcome = await self._engine.submit(frame)
        self._note(frame, outcome)
        return outcome

    async def close(self) -> bool:
        """Stop the workers; False when one is still busy after a short while."""
        return await self._engine.close()

    def _note(self, frame: EngineFrame, outcome: EngineOutcome) -> None:
        metrics = self._metrics
        failed = outcome.error is not None
        reason = OK if outcome.error is None else outcome.error.reason
        self._notes.frame(frame.bitstreams, reason, failed=failed)
        if outcome.analysis is not None:
            for stage, milliseconds in outcome.analysis.milliseconds.items():
                metrics.stage_seconds.labels(stage).observe(milliseconds / 1e3)
            for task in outcome.analysis.tasks:
                metrics.tasks.labels(task, OK).inc()
        known = self._engine.tasks
        for task, error in outcome.task_errors.items():
            metrics.tasks.labels(task if task in known else "unknown", error.reason).inc()
