"""The result of one check, and what its states mean."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

State = Literal["ok", "optional", "warning", "problem"]
"""ok: as it should be. optional: absent, and only what it is for does not work. warning: works,
but somebody should look. problem: something that is needed here is missing or broken."""

Role = Literal["edge", "cloud", "train"]
"""What an installation is for; what is a problem for one may be nothing to another."""

ROLES: tuple[Role, ...] = ("edge", "cloud", "train")


@dataclass(frozen=True, slots=True)
class Finding:
    """One checked thing.

    area: its group, such as ``install``. name: what was checked. found: what is there, in words.
    mend: a command that repairs it, or a sentence where no one command does; None when there is
    nothing to repair.
    """

    area: str
    name: str
    state: State
    found: str
    mend: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The finding as JSON-ready values, each key always there."""
        return {
            "area": self.area,
            "name": self.name,
            "state": self.state,
            "found": self.found,
            "mend": self.mend,
        }
