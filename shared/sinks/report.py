"""One frame's result, as every sink gets it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from shared.errors import FeatherwireError
from shared.results import AnalysisResult, summarise


@dataclass(frozen=True, slots=True)
class Report:
    """One frame's result: either ``analysis`` or ``error`` is set. Times are seconds since 1970,
    None where unknown.

    source: what the device calls the picture. payload_bytes: of the features. cursor: in a
    server's log. refined: it is a further result of a frame that had one.
    """

    device: str
    session: str
    sequence: int
    source: str = ""
    captured_at: float | None = None
    completed_at: float | None = None
    bundle: str = ""
    state: int | None = None
    payload_bytes: int = 0
    round_trip_ms: float | None = None
    refined: bool = False
    cursor: int | None = None
    analysis: AnalysisResult | None = None
    error: FeatherwireError | None = None
    task_errors: Mapping[str, FeatherwireError] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The result's id, the same whenever, and by whom, it is sent again: with its place in the
        log, where it has one."""
        frame = f"{self.device}/{self.session}/{self.sequence}"
        if self.cursor is not None:
            return f"{frame}@{self.cursor}"
        return f"{frame}/state-{self.state}" if self.refined else frame

    @property
    def bits_per_pixel(self) -> float | None:
        """Bits per pixel of the features; None when there are none."""
        return None if self.analysis is None else round(self.analysis.bits_per_pixel, 6)

    @property
    def found(self) -> str:
        """What was found, or what went wrong, in words."""
        if self.error is not None:
            return f"error: {self.error.reason}"
        found = "-" if self.analysis is None else summarise(self.analysis.tasks.values())
        wrong = [f"{name}: {error.reason}" for name, error in self.task_errors.items()]
        return "; ".join([found, *wrong])

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; times as ISO 8601 in UTC."""
        return {
            "id": self.id,
            "device": self.device,
            "session": self.session,
            "sequence": self.sequence,
            "source": self.source,
            "captured_at": iso(self.captured_at),
            "completed_at": iso(self.completed_at),
            "bundle": self.bundle,
            "state": self.state,
            "bytes": self.payload_bytes,
            "bits_per_pixel": self.bits_per_pixel,
            "round_trip_ms": self.round_trip_ms,
            "refined": self.refined,
            "cursor": self.cursor,
            "found": self.found,
            "analysis": None if self.analysis is None else self.analysis.to_dict(),
            "error": None if self.error is None else self.error.to_dict(),
            "task_errors": {name: error.to_dict() for name, error in self.task_errors.items()},
        }


def iso(seconds: float | None) -> str | None:
    """Seconds since 1970 as ``2026-01-31T12:00:00.000000Z``; None also for what is no date."""
    if seconds is None:
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    except (ValueError, OverflowError, OSError):
        return None
