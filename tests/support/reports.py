"""Reports for sinks."""

from __future__ import annotations

from typing import Any

from shared.errors import TaskError
from shared.results import (
    AnalysisResult,
    Box,
    Detection,
    Face,
    Instance,
    ModelInfo,
    RleMask,
    TaskResult,
)
from shared.sinks import Report

MODEL = [ModelInfo(name="m", version="1", licence="Apache-2.0")]
BOX = Box(x_min=1, y_min=2, x_max=11, y_max=22)


def found_tasks() -> dict[str, TaskResult]:
    """Two people and a cup, one person's mask, a face."""
    people = [
        Detection(box=BOX, class_id=1, class_name="person", score=0.9),
        Detection(box=BOX, class_id=1, class_name="person", score=0.8),
        Detection(box=BOX, class_id=47, class_name="cup", score=0.7),
    ]
    mask = RleMask(size=(48, 64), counts="0`2P1")
    instance = Instance(box=BOX, class_id=1, class_name="person", score=0.6, mask=mask)
    face = Face(box=BOX, score=0.5, key_points=tuple((float(n), float(n + 1)) for n in range(6)))
    return {
        "detection": TaskResult(task="detection", model=MODEL, detections=people),
        "segmentation": TaskResult(task="segmentation", model=MODEL, instances=[instance]),
        "landmarks": TaskResult(task="landmarks", model=MODEL, faces=[face]),
    }


def report(sequence: int = 1, **changes: Any) -> Report:
    """A report with findings, unless ``analysis`` or ``error`` says otherwise."""
    analysis = AnalysisResult(
        width=64, height=48, state=2, payload_bytes=384, bits_per_pixel=1.0, tasks=found_tasks()
    )
    values: dict[str, Any] = {
        "device": "cam/1",
        "session": "s",
        "sequence": sequence,
        "source": f"photo-{sequence}.jpg",
        "captured_at": 1_700_000_000.25 + sequence,
        "completed_at": 1_700_000_001.0 + sequence,
        "state": 2,
        "payload_bytes": 384,
        "round_trip_ms": 12.5,
        "cursor": sequence,
        "analysis": analysis,
    }
    return Report(**(values | changes))


def failed_report(sequence: int) -> Report:
    """A frame that failed."""
    error = TaskError("task_failed", 'it failed, with a "quote", a , and a\nnew line')
    return report(sequence, analysis=None, error=error)
