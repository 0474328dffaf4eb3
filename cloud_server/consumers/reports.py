"""Results of a server's log as sinks and downloads get them."""

from __future__ import annotations

from datetime import datetime

from cloud_server.consumers.result import Result
from shared.sinks import Report


def report_of(result: Result) -> Report:
    """A result as sinks get it."""
    return Report(
        device=result.device,
        session=result.session,
        sequence=result.sequence,
        captured_at=_seconds(result.captured_at),
        completed_at=_seconds(result.completed_at),
        bundle=result.bundle,
        state=result.state,
        payload_bytes=0 if result.analysis is None else result.analysis.payload_bytes,
        cursor=result.cursor,
        analysis=result.analysis,
        error=result.error,
        task_errors=result.task_errors,
    )


def _seconds(when: datetime | None) -> float | None:
    return None if when is None else when.timestamp()
