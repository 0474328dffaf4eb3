"""The engine: frames in, outcomes out, everything heavy in workers.

         ┌─ of one bundle ───────────────────────────────┐
submit ──┤ decode ──┬── tail ── tail                     ├── outcome
         │ (codec)  └── reconstruct ──┬── task ── task   │
         └──────────────(by shape)────└── picture ───────┘

A frame may carry bitstreams of several bundles; each has its own part (``lane``), the tasks and the
picture encoder are shared. ``LocalEngine`` is all this on threads; ``process.ProcessEngine`` has
one in each of several processes. What either loads is an ``EngineSpec``.
"""

from cloud_server.engine.api import Engine, EngineFrame, EngineOutcome, TaskStatus
from cloud_server.engine.lane import WorkerCounts
from cloud_server.engine.local import LocalEngine

__all__ = [
    "Engine",
    "EngineFrame",
    "EngineOutcome",
    "LocalEngine",
    "TaskStatus",
    "WorkerCounts",
]
