"""What becomes of a frame whose worker died: the same for processes here and replicas elsewhere.

A frame goes to another worker; its deadline begins anew, and does not run while there is no worker.
One that workers die of while they have no other frame is answered in the end, with an error.
"""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import FeatherwireError

MAX_CRASHES = 2
"""Workers that may crash on a frame that they have alone; then its answer is an error."""

MAX_KILLS = 5
"""The same for workers that somebody else ended: for want of memory, with a node, or by chance."""


@dataclass(slots=True)
class Deaths:
    """Workers that died while they had this frame alone."""

    crashes: int = 0
    kills: int = 0

    def count(self, *, killed: bool) -> None:
        """One more; ``killed``: it may have been somebody else's doing."""
        if killed:
            self.kills += 1
        else:
            self.crashes += 1

    @property
    def enough(self) -> bool:
        """Whether the frame is given up."""
        return self.crashes >= MAX_CRASHES or self.kills >= MAX_KILLS

    def error(self, cause: str) -> FeatherwireError:
        """The frame's answer then; ``cause``: what the last worker ended with."""
        return FeatherwireError(
            "worker_crashed",
            f"{self.crashes + self.kills} workers died of this frame ({cause})",
            cause=cause,
        )


def closed() -> FeatherwireError:
    """The answer to what an engine has when it is closed."""
    return FeatherwireError("engine_closed", "the server is stopping")


def late(deadline_s: float) -> FeatherwireError:
    """The answer to a frame that waited too long for a worker."""
    return FeatherwireError(
        "deadline_exceeded", f"not done within {deadline_s:g} s", deadline_s=deadline_s
    )
