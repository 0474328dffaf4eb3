"""What a session tells of itself while it runs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from shared.errors import FeatherwireError
from shared.wire.commands import Setting


def nobody(what: object) -> None:
    """Hears what nobody else wants to."""


@dataclass(frozen=True, slots=True)
class SessionEvents:
    """Callbacks of a session. They come from its threads, one after another of each, and must
    return soon; what they raise ends the stream.

    connection: with a spool; is given why there is no stream, as soon as that is known, and each
        reason once while there is none; None when there is one.
    setting: is given what an operator has set, when the device begins to follow it: at the start,
        where it was kept, and when it comes.
    """

    connection: Callable[[FeatherwireError | None], None] = nobody
    setting: Callable[[Setting], None] = nobody
