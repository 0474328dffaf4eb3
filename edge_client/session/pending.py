"""What a connection has sent and waits for."""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

from edge_client.session.refinement_store import Refinement
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import ingest_pb2
from shared.wire import FrameOutcome
from shared.wire.commands import RefineCommand
from shared.wire.requests import Refine, refine_message


@dataclass(frozen=True, slots=True)
class Reply:
    """An outcome as it came: milliseconds since its request was sent, and the frame's numbers.

    ``state`` is of the bundle with short id ``bundle_id``. ``refinement`` is there when the server
    has asked for more layers of the frame: the reply to those. ``result_id``: the result's number
    in the session, 0 for one that is not kept there.
    """

    outcome: FrameOutcome
    sequence: int
    state: int
    round_trip_ms: float
    bundle_id: bytes = b""
    payload_bytes: int = 0
    passes: int = 0
    refinement: Future[Reply] | None = None
    result_id: int = 0


@dataclass(frozen=True, slots=True)
class Pending:
    """A message that was sent, or is about to be, and the reply to come; ``sent_at`` is of
    ``time.perf_counter``."""

    payload_bytes: int
    passes: int = 0
    refines: bool = False
    future: Future[Reply] = field(default_factory=Future)
    sent_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Commanded:
    """Layers that the server has asked for, waiting for credit."""

    command_id: str
    refinement: Refinement
    request: ingest_pb2.ConnectRequest
    pending: Pending


@dataclass(frozen=True, slots=True)
class Parked:
    """A command about a frame of which more is being made; ``reply`` is of what comes of it."""

    command_id: str
    wanted: RefineCommand
    reply: Future[Reply]


Key = tuple[int, bytes, int]
"""Sequence, short id of the bundle, state: what a result is of."""


def key_of(refinement: Refinement) -> Key:
    """Of what the result of a refinement will be."""
    return refinement.sequence, refinement.bundle_id, refinement.state


def refine_request(refinement: Refinement) -> ingest_pb2.ConnectRequest:
    """The message that sends it."""
    message = refine_message(
        Refine(
            refinement.sequence,
            refinement.layers,
            refinement.tasks,
            refinement.picture,
            refinement.bundle_id,
        )
    )
    return ingest_pb2.ConnectRequest(refine=message)


def resolve(future: Future[Reply], outcome: Reply | FeatherwireError) -> None:
    """Tell whoever waits."""
    with suppress(Exception):  # cancelled in this moment: nobody waits any more
        if isinstance(outcome, Reply):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)
