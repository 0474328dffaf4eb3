"""The frames of a stream of photos that are not back yet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future
from concurrent.futures import wait as wait_for
from dataclasses import dataclass, replace
from typing import Any

from edge_client.session.pending import Reply
from edge_client.session.result import FrameResult, failed, received
from shared.errors import FeatherwireError, SessionError


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A frame that is not back; ``sent_at`` is of ``time.monotonic``.

    ``before``: the result that is being refined, if that is what is awaited.
    """

    photo: Any
    sequence: int
    sent_at: float
    deadline_s: float
    before: FrameResult | None = None


class InFlight:
    """Futures of frames, and of the refinements that the server asks for."""

    def __init__(self, server: str) -> None:
        """server: for what is said of a frame that is late."""
        self._server = server
        self._awaited: dict[Future[Reply], _Awaited] = {}

    def __len__(self) -> int:
        return len(self._awaited)

    @property
    def any_done(self) -> bool:
        """Whether ``completed`` would not wait."""
        return any(future.done() for future in self._awaited)

    def add(self, future: Future[Reply], photo: Any, sequence: int, deadline_s: float) -> None:
        """A frame has been sent."""
        self._awaited[future] = _Awaited(photo, sequence, time.monotonic(), deadline_s)

    def completed(self) -> Iterator[FrameResult]:
        """Wait for one frame at least, or for its deadline; yield what has ended.

        What has ended is forgotten, and a refinement of it that is to come takes its place. When
        the session has failed this raises why, after all that did come back.
        """
        first_s = min(one.sent_at + one.deadline_s for one in self._awaited.values())
        wait_for(
            self._awaited,
            timeout=max(0.0, first_s - time.monotonic()),
            return_when=FIRST_COMPLETED,
        )
        failure: BaseException | None = None
        for future, one in list(self._awaited.items()):
            if future.done():
                del self._awaited[future]
                error = future.exception()
                if error is None:
                    yield self._received(future.result(), one)
                elif one.before is not None and isinstance(error, FeatherwireError):
                    if error.reason == "not_refinable":
                        continue  # the server asked for what was never kept
                    yield failed(one.photo, error, sequence=one.sequence, before=one.before)
                else:
                    failure = failure or error
            elif time.monotonic() >= one.sent_at + one.deadline_s:
                del self._awaited[future]
                future.cancel()
                late = too_late(self._server, one.deadline_s)
                yield failed(one.photo, late, sequence=one.sequence, before=one.before)
        if failure is not None:
            raise failure

    def _received(self, reply: Reply, one: _Awaited) -> FrameResult:
        result = received(reply, one.photo, before=one.before)
        if reply.refinement is not None:
            again = replace(one, sent_at=time.monotonic(), before=result)
            self._awaited[reply.refinement] = again
        return result


def too_late(server: str, deadline_s: float) -> SessionError:
    """What is said of a frame that is not back in time."""
    return SessionError("deadline_exceeded", f"{server} gave no result within {deadline_s:g} s")
