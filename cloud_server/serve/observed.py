"""The engine as a server uses it: what it does is counted and timed."""

from __future__ import annotations

from cloud_server.engine.api import Engine, EngineAround, EngineFrame, EngineOutcome
from cloud_server.telemetry.metrics import OK, FrameNotes, Metrics
from shared.bundle import Bundle


class ObservedEngine(EngineAround):
    """Counts and times what ``engine`` does."""

    def __init__(self, engine: Engine, metrics: Metrics, *bundles: Bundle) -> None:
        """bundles: that frames are of; others are counted as ``unknown``."""
        super().__init__(engine)
        self._metrics = metrics
        self._notes = FrameNotes(metrics, bundles)
        metrics.workers_alive.set_function(lambda: float(engine.alive))

    async def submit(self, frame: EngineFrame) -> EngineOutcome:
        """Analyse one frame, and note what it took and what came of it."""
        outcome = await self._engine.submit(frame)
        self._note(frame, outcome)
        return outcome

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
