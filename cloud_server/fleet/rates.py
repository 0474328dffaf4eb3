"""Changes of a part of a device's rate: checked, and merged into the rate that it was given."""

from __future__ import annotations

import math

from sqlalchemy import Connection, select, update

from cloud_server.database.schema import COMMANDS, DEVICES
from shared.bitstream.layers import MAX_STATE
from shared.errors import SessionError
from shared.proto.featherwire.v1 import fleet_pb2
from shared.wire.commands import RATE_FIELDS, changed_rate

SET_RATE = "set_rate"


def check_rate(policy: fleet_pb2.RatePolicy) -> None:
    """Raise ``SessionError("invalid_message")`` for a policy that no device could follow."""
    named = policy.WhichOneof("policy")
    fps = policy.max_frames_per_second
    value = getattr(policy, named) if named is not None else 0
    if (
        not 0 <= fps < math.inf
        or not 0 <= value < 2**53
        or policy.state > MAX_STATE
        or (named not in {None, "state"} and not value)
    ):
        raise _invalid("the policy is out of range")


def check_change(change: fleet_pb2.ChangeRate) -> None:
    """Raise ``SessionError("invalid_message")`` unless the mask names parts of a rate, and all that
    the policy sets."""
    check_rate(change.policy)
    names = list(change.mask.paths)
    if not names or len(set(names)) != len(names) or not set(names) <= set(RATE_FIELDS):
        raise _invalid(f"the mask names {', '.join(RATE_FIELDS)}, one at least, each once")
    unnamed = {field.name for field, _ in change.policy.ListFields()} - set(names)
    if unnamed:
        raise _invalid(f"the policy sets {min(unnamed)}, which the mask does not name")


def rate_given(connection: Connection, device: str) -> fleet_pb2.RatePolicy:
    """The rate that the device was given last and has taken, or has not answered yet."""
    commands = connection.execute(
        select(COMMANDS.c.command, COMMANDS.c.reply)
        .where(COMMANDS.c.device == device, COMMANDS.c.kind == SET_RATE)
        .order_by(COMMANDS.c.id.desc())
    )
    for row in commands:
        if row.reply is None or not fleet_pb2.CommandReply.FromString(row.reply).HasField("error"):
            return fleet_pb2.Command.FromString(row.command).set_rate.policy
    # Old commands are forgotten; what the device has taken is not.
    described = connection.execute(
        select(DEVICES.c.described).where(DEVICES.c.device == device)
    ).scalar()
    return fleet_pb2.Device.FromString(described or b"").rate_policy


def whole_rate(
    connection: Connection, device: str, command: fleet_pb2.Command
) -> fleet_pb2.Command:
    """The command as the device gets it: a change of its rate as the rate that comes of it.

    In a connection that writes nobody else changes the rate between this and the next commit.
    """
    if not command.HasField("change_rate"):
        return command
    policy = changed_rate(rate_given(connection, device), command.change_rate)
    return fleet_pb2.Command(set_rate=fleet_pb2.SetRate(policy=policy))


def reinstate(connection: Connection, device: str, cancelled: int) -> None:
    """A command of the rate was cancelled before the device had answered: what was to be done until
    that took its place is to be done again. Others' parts of the rate were in both."""
    earlier = connection.execute(
        select(COMMANDS.c.id, COMMANDS.c.reply)
        .where(COMMANDS.c.device == device, COMMANDS.c.kind == SET_RATE, COMMANDS.c.id < cancelled)
        .order_by(COMMANDS.c.id.desc())
    )
    for row in earlier:
        error = fleet_pb2.CommandReply.FromString(row.reply or b"").error
        if error.reason == "superseded":
            connection.execute(
                update(COMMANDS).where(COMMANDS.c.id == row.id).values(replied_at=None, reply=None)
            )
        if error.reason in ("superseded", ""):
            return


def _invalid(complaint: str) -> SessionError:
    return SessionError("invalid_message", f"rate: {complaint}", field="rate")
