"""The engine: frames in, outcomes out, everything heavy in workers.

         ┌─ of one bundle ───────────────────────────────┐
submit ──┤ decode ──┬── tail ── tail                     ├── outcome
         │ (codec)  └── reconstruct ──┬── task ── task   │
         └──────────────(by batch)────└── picture ───────┘

api         the contract: frame, outcome, engine
local       the engine on threads of one process; the way of a frame through it
pipeline    what it has of one bundle; a frame may carry bitstreams of several
stage       worker threads around one bounded queue
spec        what an engine loads, as plain values
processes   the engine in processes of its own: workers started, asked, started again
worker      the other end: a worker process's main
messages    the engine's values as messages to workers, and over a socket
fair        turns before an engine: how many frames it is given at a time, and whose
waiting     frames that wait for a worker, and those whose worker died
ray         the engine on a Ray cluster
files       one file at a time, for commands: decoded, reconstructed, analysed
"""

from cloud_server.engine.api import Decoded, Engine, EngineFrame, EngineOutcome, TaskStatus
from cloud_server.engine.fair import FairEngine
from cloud_server.engine.local import LocalEngine
from cloud_server.engine.pipeline import WorkerCounts

__all__ = [
    "Decoded",
    "Engine",
    "EngineFrame",
    "EngineOutcome",
    "FairEngine",
    "LocalEngine",
    "TaskStatus",
    "WorkerCounts",
]
