"""What comes of a server's messages: the events of a device's protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2

Context = TypeVar("Context")
"""What the owner wants to have back with the result of a frame: a future, a time, nothing."""

Key = tuple[int, bytes, int]
"""Sequence, short id of the bundle, state: what an acknowledgement or a result is of."""


@dataclass(slots=True, eq=False)
class Sent(Generic[Context]):
    """A Frame or a Refine whose result is still to come.

    ``sent_at``: when it was first sent, by the owner's clock. ``request``: its bytes, as long as
    they may have to be sent again.
    """

    key: Key
    context: Context
    sent_at: float
    refines: bool = False
    acknowledged: bool = False
    request: bytes | None = None

    @property
    def sequence(self) -> int:
        """Of the frame."""
        return self.key[0]


@dataclass(frozen=True, slots=True)
class Welcomed:
    """The stream is open; ``welcome`` says what the server takes."""

    welcome: ingest_pb2.Welcome


@dataclass(frozen=True, slots=True)
class Acknowledged(Generic[Context]):
    """The server has this frame, or refinement, for good.

    ``sent``: None where nobody awaits its result here. ``first``: it was not acknowledged before,
    as far as this protocol has seen. ``duplicate``: the server had it before. ``held_s``: for how
    long the server had it, which the network had no part in; 0 where it does not say so.
    """

    key: Key
    sent: Sent[Context] | None
    first: bool
    duplicate: bool = False
    held_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Answered(Generic[Context]):
    """A result has come. ``sent``: what it is of; None where nothing awaits it, or not any more.

    ``repeated``: it has a number up to which this protocol has seen all.
    """

    result: ingest_pb2.Result
    sent: Sent[Context] | None
    repeated: bool

    @property
    def key(self) -> Key:
        """What it is of."""
        return self.result.sequence, self.result.bundle_short_id, self.result.state


@dataclass(frozen=True, slots=True)
class Resent(Generic[Context]):
    """A frame that a lost stream left open is on its way again."""

    sent: Sent[Context]


@dataclass(frozen=True, slots=True)
class CreditGranted:
    """There is room for more."""


@dataclass(frozen=True, slots=True)
class Backlogged:
    """The server is busy: ``frames`` of this session are still to be answered, and will be."""

    frames: int


@dataclass(frozen=True, slots=True)
class CommandReceived:
    """The server wants something; ``answer`` it, or ``queue_refine`` what it asks for.

    ``pending``: it is about a frame whose result is still to come.
    """

    command: fleet_pb2.Command
    pending: bool


@dataclass(frozen=True, slots=True)
class Drained(Generic[Context]):
    """The server takes nothing more on this stream: what waited for credit here goes nowhere."""

    deadline_s: float
    abandoned: Sequence[Sent[Context]]


@dataclass(frozen=True, slots=True)
class Failed:
    """The stream is of no more use. ``broken``: the server did not keep to the protocol, so the
    owner should end the stream; otherwise the server does."""

    error: FeatherwireError
    broken: bool


Event = (
    Welcomed
    | Acknowledged[Context]
    | Answered[Context]
    | Resent[Context]
    | CreditGranted
    | Backlogged
    | CommandReceived
    | Drained[Context]
    | Failed
)
