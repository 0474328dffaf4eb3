"""What the server asks of an engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shared.bitstream import Bitstream
from shared.errors import FeatherwireError
from shared.results import ModelInfo
from shared.wire import FrameOutcome, PictureRequest


@dataclass(frozen=True, slots=True)
class EngineFrame:
    """One frame to analyse. ``deadline_s`` counts from ``submit``."""

    bitstream: Bitstream
    tasks: tuple[str, ...] = ()
    picture: PictureRequest | None = None
    deadline_s: float = 30.0


@dataclass(frozen=True, slots=True)
class TaskStatus:
    """A task that was asked for at start-up, and why it cannot run when it cannot."""

    name: str
    models: tuple[ModelInfo, ...] = ()
    unavailable: FeatherwireError | None = None


class Engine(Protocol):
    """Analyses frames. ``submit`` may be awaited by any number of streams at once."""

    @property
    def tasks(self) -> dict[str, TaskStatus]:
        """The tasks of this engine by name, usable or not."""

    @property
    def alive(self) -> bool:
        """Whether every worker runs."""

    async def submit(self, frame: EngineFrame) -> FrameOutcome:
        """Analyse one frame. Failures are inside the outcome; only cancellation raises."""

    async def close(self) -> bool:
        """Stop the workers; False when one is still busy after a short while."""
