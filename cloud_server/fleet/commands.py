"""Commands to devices: checked, kept in the database, superseded, answered once."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update

from cloud_server.database.schema import COMMANDS, now_us
from cloud_server.fleet.rates import SET_RATE, check_change, check_rate, reinstate, whole_rate
from shared.bitstream.layers import MAX_STATE
from shared.errors import BundleError, FeatherwireError, SessionError, TaskError
from shared.proto.featherwire.v1 import fleet_pb2
from shared.wire import error_to_message
from shared.wire.commands import parse_regions
from shared.wire.features import parse_short_id
from shared.wire.requests import MAX_SEQUENCE, check_name, parse_tasks

MAX_PENDING = 256
"""Commands that a device may have unanswered."""

REFINE = "refine_frame"
CANCELLED = "cancelled"
"""Reason of the reply of a command that was taken back."""
_PREFIX = "c"


@dataclass(frozen=True, slots=True)
class IssuedCommand:
    """A command to one device; ``reply`` is None while there is none. Times: microseconds."""

    id: int
    device: str
    kind: str
    issued_by: str
    command: fleet_pb2.Command
    replied_at: int | None
    reply: fleet_pb2.CommandReply | None

    def to_message(self) -> fleet_pb2.IssuedCommand:
        """The command for operators."""
        message = fleet_pb2.IssuedCommand(
            device=self.device, command=self.command, reply=self.reply, issued_by=self.issued_by
        )
        if self.replied_at is not None:
            message.replied_at.FromMicroseconds(self.replied_at)
        return message


def issue(
    connection: Connection, device: str, command: fleet_pb2.Command, issued_by: str
) -> IssuedCommand:
    """Keep a command; one of its kind that has no reply is superseded, but for refinements.

    A change of the rate is kept as the rate that comes of it.

    Raises ``SessionError("too_many_commands")``, and has changed nothing then.
    """
    command = whole_rate(connection, device, command)
    kind = command.WhichOneof("command")
    assert kind is not None, "checked before"
    now = now_us()
    pending = (COMMANDS.c.device == device) & COMMANDS.c.replied_at.is_(None)
    if kind == REFINE:
        waiting = connection.execute(select(func.count()).select_from(COMMANDS).where(pending))
        if waiting.scalar_one() >= MAX_PENDING:
            raise SessionError(
                "too_many_commands", f"device {device} has {MAX_PENDING} commands to answer"
            )
    else:
        reply = failed_reply(SessionError("superseded", "a later command took its place"))
        connection.execute(
            update(COMMANDS)
            .where(pending, COMMANDS.c.kind == kind)
            .values(replied_at=now, reply=reply.SerializeToString())
        )
    stored = fleet_pb2.Command()
    stored.CopyFrom(command)
    stored.ClearField("command_id")
    stored.issued_at.FromMicroseconds(now)
    added = connection.execute(
        insert(COMMANDS).values(
            device=device,
            kind=kind,
            issued_at=now,
            issued_by=issued_by[:256],
            command=stored.SerializeToString(),
        )
    )
    assert added.inserted_primary_key is not None
    command_id: int = added.inserted_primary_key[0]
    stored.command_id = f"{_PREFIX}{command_id}"
    return IssuedCommand(command_id, device, kind, issued_by, stored, None, None)


def pending(connection: Connection, device: str, after: int = 0) -> list[IssuedCommand]:
    """The device's commands behind ``after`` without a reply, in the order they were issued."""
    rows = connection.execute(
        select(COMMANDS)
        .where(COMMANDS.c.device == device, COMMANDS.c.replied_at.is_(None), COMMANDS.c.id > after)
        .order_by(COMMANDS.c.id)
    )
    return [_issued(row) for row in rows]


def pending_counts(connection: Connection) -> dict[str, int]:
    """How many commands without a reply each device has."""
    rows = connection.execute(
        select(COMMANDS.c.device, func.count())
        .where(COMMANDS.c.replied_at.is_(None))
        .group_by(COMMANDS.c.device)
    )
    return {row[0]: row[1] for row in rows}


def answer(connection: Connection, command_id: int, reply: fleet_pb2.CommandReply) -> bool:
    """Keep the reply to a command; False when it had one."""
    done = connection.execute(
        update(COMMANDS)
        .where(COMMANDS.c.id == command_id, COMMANDS.c.replied_at.is_(None))
        .values(replied_at=now_us(), reply=_stored(reply))
    )
    return done.rowcount == 1


def answer_late(connection: Connection, command_id: int, reply: fleet_pb2.CommandReply) -> bool:
    """Keep the reply to a command that was cancelled when the device had it already: what the
    device says is what counts. False for one that was not cancelled."""
    row = connection.execute(
        select(COMMANDS.c.reply).where(COMMANDS.c.id == command_id, COMMANDS.c.reply.is_not(None))
    ).one_or_none()
    if row is None or fleet_pb2.CommandReply.FromString(row.reply).error.reason != CANCELLED:
        return False
    connection.execute(
        update(COMMANDS)
        .where(COMMANDS.c.id == command_id)
        .values(replied_at=now_us(), reply=_stored(reply))
    )
    return True


def _stored(reply: fleet_pb2.CommandReply) -> bytes:
    stored = fleet_pb2.CommandReply()
    if reply.HasField("error"):
        stored.error.CopyFrom(reply.error)
    return stored.SerializeToString()


def cancel(connection: Connection, command_ids: Sequence[str], who: str) -> list[IssuedCommand]:
    """Cancel those of the commands that have no reply; returns them as they were.

    A command of the rate that one of them had superseded waits for its answer again.

    Raises ``SessionError("not_found")`` for an id that there is not; nothing has changed then.
    """
    numbers = [_number(one) for one in command_ids]
    rows = connection.execute(select(COMMANDS).where(COMMANDS.c.id.in_(numbers))).all()
    known = {row.id for row in rows}
    for name, number in zip(command_ids, numbers, strict=True):
        if number not in known:
            raise SessionError("not_found", f"there is no command {name[:64]}", command_id=name)
    waiting = [_issued(row) for row in rows if row.replied_at is None]
    _close(connection, [one.id for one in waiting], f"{who} has cancelled it")
    for one in waiting:
        if one.kind == SET_RATE:
            reinstate(connection, one.device, one.id)
    return waiting


def cancel_all_of(connection: Connection, device: str, why: str) -> list[IssuedCommand]:
    """Cancel every command of the device that has no reply; returns them as they were."""
    waiting = pending(connection, device)
    _close(connection, [one.id for one in waiting], why)
    return waiting


def forget_answered(connection: Connection, device: str) -> None:
    """Forget what the device was told; the newest command of all stays, for the numbers go on
    behind it."""
    newest = select(func.max(COMMANDS.c.id)).scalar_subquery()
    connection.execute(
        delete(COMMANDS).where(
            COMMANDS.c.device == device, COMMANDS.c.replied_at.is_not(None), COMMANDS.c.id < newest
        )
    )


def _close(connection: Connection, ids: Sequence[int], why: str) -> None:
    reply = failed_reply(SessionError(CANCELLED, why))
    connection.execute(
        update(COMMANDS)
        .where(COMMANDS.c.id.in_(ids))
        .values(replied_at=now_us(), reply=reply.SerializeToString())
    )


def _number(command_id: str) -> int:
    digits = command_id.removeprefix(_PREFIX)
    if digits == command_id or not digits.isascii() or not digits.isdigit() or len(digits) > 18:
        raise SessionError("not_found", f"there is no command {command_id[:64]!r}")
    return int(digits)


def listed(
    connection: Connection,
    devices: Sequence[str] | None,
    *,
    pending_only: bool,
    after: int,
    count: int,
    newest_first: bool = False,
) -> list[IssuedCommand]:
    """At most ``count`` commands behind ``after``, oldest first; of these devices, None: of all.

    With ``newest_first`` those before ``after``, where 0 is the end.
    """
    query = select(COMMANDS)
    if not newest_first:
        query = query.where(COMMANDS.c.id > after)
    elif after:
        query = query.where(COMMANDS.c.id < after)
    if pending_only:
        query = query.where(COMMANDS.c.replied_at.is_(None))
    if devices is not None:
        query = query.where(COMMANDS.c.device.in_(devices))
    order = COMMANDS.c.id.desc() if newest_first else COMMANDS.c.id
    return [_issued(row) for row in connection.execute(query.order_by(order).limit(count))]


def failed_reply(error: FeatherwireError) -> fleet_pb2.CommandReply:
    """A reply that the server gives in the device's place."""
    return fleet_pb2.CommandReply(error=error_to_message(error))


def _issued(row: Row[Any]) -> IssuedCommand:
    command = fleet_pb2.Command.FromString(row.command)
    command.command_id = f"{_PREFIX}{row.id}"
    reply = None
    if row.reply is not None:
        reply = fleet_pb2.CommandReply.FromString(row.reply)
        reply.command_id = command.command_id
    return IssuedCommand(
        row.id, row.device, row.kind, row.issued_by, command, row.replied_at, reply
    )


MAX_SELECTED = 10_000


def check_command(
    command: fleet_pb2.Command, bundle_ids: Collection[str], tasks: Collection[str] | None = None
) -> None:
    """Raise ``SessionError("invalid_message")`` for a command that no device could carry out.

    bundle_ids: of those that this server takes; ``BundleError("not_found")`` for another one.
    tasks: that this server knows, None: any; ``TaskError("unknown_task")`` for another one.
    """
    match command.WhichOneof("command"):
        case "set_rate":
            check_rate(command.set_rate.policy)
        case "change_rate":
            check_change(command.change_rate)
        case "set_tasks":
            for name in parse_tasks(command.set_tasks.tasks):
                if tasks is not None and name not in tasks:
                    known = ", ".join(sorted(tasks)) or "none"
                    raise TaskError(
                        "unknown_task",
                        f"this server has no task {name!r}; it has {known}",
                        task=name,
                    )
        case "set_regions":
            parse_regions(command.set_regions)
        case "use_bundle":
            if command.use_bundle.bundle_id not in bundle_ids:
                raise BundleError(
                    "not_found",
                    f"this server does not take bundle {command.use_bundle.bundle_id[:64]}",
                )
        case "key_frame":
            pass  # it says all by itself
        case "refine_frame":
            refine = command.refine_frame
            if not 1 <= refine.sequence <= MAX_SEQUENCE or refine.state > MAX_STATE:
                raise _invalid("refine_frame", "there is no such frame or state")
            parse_short_id(refine.bundle_short_id)
            if refine.session:
                check_name("session", refine.session)
        case _:
            raise _invalid("command", "there is none, or it is of a newer release")


def check_selector(selector: fleet_pb2.DeviceSelector) -> None:
    """Raise ``SessionError("invalid_message")``."""
    if len(selector.devices) > MAX_SELECTED or len(selector.labels) > MAX_SELECTED:
        raise _invalid("selector", f"names more than {MAX_SELECTED} devices or labels")
    for device in selector.devices:
        check_name("selector.devices", device)


def _invalid(field: str, complaint: str) -> SessionError:
    return SessionError("invalid_message", f"{field}: {complaint}", field=field)
