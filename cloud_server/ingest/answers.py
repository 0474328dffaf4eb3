"""Answers that are given again: a frame whose values are those of the one before has its result.

The answer of a frame that is still being analysed is waited for, so that a still scene costs the
networks one run, however many frames of it are on their way.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

from cloud_server.engine import EngineFrame, EngineOutcome
from cloud_server.ingest.sessions import OwnedCache
from cloud_server.results.records import SessionKey
from shared.results import AnalysisResult

KEPT = 16
"""Answers of a session: more than frames are in flight, in most."""

MAX_BYTES = 64 * 2**20
"""Of pictures, and of what is found, in all sessions."""

FOUND_BYTES = 4096
"""What an outcome without its picture is taken to be in memory, and each thing found in it."""

Analyse = Callable[[], Awaitable[EngineOutcome]]


@dataclass(frozen=True, slots=True, eq=False)
class _Answer:
    """To what it is the answer, and the answer once it is known; None when it is an error."""

    asked: tuple[object, ...]
    outcome: asyncio.Future[EngineOutcome | None]


class Answers:
    """The last outcomes of sessions. Used on one event loop."""

    def __init__(self, max_bytes: int = MAX_BYTES) -> None:
        self._answers: OwnedCache[_Answer] = OwnedCache(
            max_bytes=max_bytes, max_entries_per_owner=KEPT
        )

    async def outcome(
        self,
        key: SessionKey,
        sequence: int,
        frame: EngineFrame,
        same_as: int | None,
        analyse: Analyse,
    ) -> EngineOutcome:
        """What the frame before found, where that has the same values and was asked the same;
        otherwise what ``analyse`` finds.

        same_as: the sequence of the frame with the same values, None: there is none.
        """
        asked = (frozenset(frame.tasks), frame.picture)
        answer = _Answer(asked, asyncio.get_running_loop().create_future())
        before = None if same_as is None else self._answers.get(key, same_as)
        self._answers.put(key, sequence, answer, FOUND_BYTES)
        outcome: EngineOutcome | None = None
        try:
            if before is not None and before.asked == asked and same_as is not None:
                found = await asyncio.shield(before.outcome)
                if found is not None and found.analysis is not None:
                    outcome = _again(found, found.analysis, frame, same_as)
            if outcome is None:
                outcome = await analyse()
        finally:
            good = outcome is not None and _is_good(outcome)
            answer.outcome.set_result(outcome if good else None)
            if self._answers.get(key, sequence) is answer:
                self._answers.drop(key, sequence)
                if outcome is not None and good:
                    self._answers.put(key, sequence, answer, _bytes_of(outcome))
        return outcome


def _is_good(outcome: EngineOutcome) -> bool:
    return outcome.error is None and not outcome.task_errors and outcome.picture_error is None


def _again(
    found: EngineOutcome, analysis: AnalysisResult, frame: EngineFrame, same_as: int
) -> EngineOutcome:
    """The outcome for a frame with the same values: its own bytes, and no time."""
    payload_bytes = frame.payload_bytes
    tasks = {
        name: result.model_copy(update={"milliseconds": {}})
        for name, result in analysis.tasks.items()
    }
    again = analysis.model_copy(
        update={
            "payload_bytes": payload_bytes,
            "bits_per_pixel": 8.0 * payload_bytes / frame.pixels,
            "tasks": tasks,
            "milliseconds": {},
            "unchanged_since": analysis.unchanged_since or same_as,
        }
    )
    # Doubts were seen to with the frame that had them.
    return replace(found, analysis=again, doubts=())


def _bytes_of(outcome: EngineOutcome) -> int:
    results = outcome.analysis.tasks.values() if outcome.analysis is not None else ()
    found = len(list(itertools.chain.from_iterable(one.found for one in results)))
    picture_bytes = 0 if outcome.picture is None else len(outcome.picture.data)
    return FOUND_BYTES * (1 + found) + picture_bytes
