"""A server's commands to a device: checked when they arrive, and the replies to them."""

from __future__ import annotations

from dataclasses import dataclass

from shared.errors import FeatherwireError, SessionError
from shared.proto.featherwire.v1 import fleet_pb2, ingest_pb2
from shared.wire.failures import error_to_message
from shared.wire.features import MAX_STATE, parse_short_id
from shared.wire.requests import MAX_SEQUENCE


@dataclass(frozen=True, slots=True)
class RefineCommand:
    """Asks for layers of a frame up to ``state``; an empty ``bundle_id`` is its first bundle."""

    sequence: int
    bundle_id: bytes
    state: int


def parse_refine_command(command: fleet_pb2.Command) -> RefineCommand:
    """Check a command.

    Raises ``SessionError``: ``unsupported_command`` for one that is no RefineFrame,
    ``invalid_message``; and ``BitstreamError("bad_bundle_id")``.
    """
    if command.WhichOneof("command") != "refine_frame":
        raise SessionError("unsupported_command", "this client only takes refine_frame")
    refine = command.refine_frame
    if not 1 <= refine.sequence <= MAX_SEQUENCE or refine.state > MAX_STATE:
        raise SessionError("invalid_message", "there is no such frame or state")
    return RefineCommand(refine.sequence, parse_short_id(refine.bundle_short_id), refine.state)


def command_reply(
    command_id: str, error: FeatherwireError | None = None
) -> ingest_pb2.ConnectRequest:
    """The reply to a command: done, or the error for which it was not."""
    reply = fleet_pb2.CommandReply(command_id=command_id)
    if error is not None:
        reply.error.CopyFrom(error_to_message(error))
    return ingest_pb2.ConnectRequest(command_reply=reply)
