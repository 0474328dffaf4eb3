"""The engine: frames in, outcomes out, everything heavy in workers.

submit ── decode ── reconstruct ──┬── task ── task ──┬── outcome
          (codec)   (batched by   └── picture ───────┘
                     shape)
"""

from cloud_server.engine.api import Engine, EngineFrame, TaskStatus
from cloud_server.engine.local import LocalEngine, WorkerCounts

__all__ = ["Engine", "EngineFrame", "LocalEngine", "TaskStatus", "WorkerCounts"]
