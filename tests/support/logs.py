"""Logs on SQLite and on a real PostgreSQL; each test runs on both."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cloud_server.results.log import ResultLog
from cloud_server.results.records import Accepted, NewFrame, SessionKey, Submission, Version
from shared.proto.featherwire.v1 import types_pb2

KEY = ("camera", "one")
V = (b"bundle-1", 3)
Open = Callable[..., ResultLog]


async def accept(
    log: ResultLog, key: SessionKey, sequence: int, version: Version, message: bytes, **more: Any
) -> Accepted:
    """What became of one frame that came alone."""
    (accepted,) = await log.accept(key, [NewFrame(sequence, version, message, **more)])
    return accepted


def outcome(*classes: str, task: str = "detection", filler: int = 0) -> types_pb2.FrameOutcome:
    """An outcome in which a task found these classes; ``filler`` bytes larger."""
    result = types_pb2.TaskResult(task=task)
    for name in classes:
        result.detections.add(class_name=name, score=0.5)
    message = types_pb2.FrameOutcome()
    message.analysis.tasks[task].CopyFrom(result)
    if filler:
        message.analysis.tasks[task].models.add(name="x" * filler)
    return message


async def take(log: ResultLog, sequence: int, key: tuple[str, str] = KEY) -> Submission:
    accepted = await accept(log, key, sequence, V, b"frame %d" % sequence, captured_us=sequence)
    assert accepted.new
    assert accepted.submission is not None
    return accepted.submission
