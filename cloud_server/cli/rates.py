"""Rates as operators write them, and what a change of them would undo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from shared.errors import FeatherwireError

if TYPE_CHECKING:
    from cloud_server.fleet.client import FleetClient
    from shared.proto.featherwire.v1 import fleet_pb2

ANY = "any"
"""What an operator writes to leave a part of the rate to the device."""

MAX_SHOWN = 20
"""Devices of which it is said what they lose; of more it is said how many."""


def rate_command(parts: Mapping[str, Any], *, reset: bool) -> fleet_pb2.Command:
    """A command for these fields of RatePolicy; None is a field that stays as it is, ``ANY`` one
    that is left to the device. reset: leaves everything to it.

    Raises FeatherwireError ``bad_option``.
    """
    from shared.proto.featherwire.v1 import fleet_pb2
    from shared.wire.commands import change_rate

    given = {name: value for name, value in parts.items() if value is not None}
    if reset == bool(given):
        raise FeatherwireError("bad_option", "give a part of the rate, or --reset alone")
    if reset:
        return fleet_pb2.Command(set_rate=fleet_pb2.SetRate(policy=fleet_pb2.RatePolicy()))
    values = {name: value for name, value in given.items() if value != ANY}
    if len(values.keys() - {"max_frames_per_second"}) > 1:
        raise FeatherwireError("bad_option", "give one of --state, --bpp, --bytes and --bandwidth")
    policy = fleet_pb2.RatePolicy(**values)
    return change_rate(policy, clear=[name for name in given if name not in values])


def undone(
    client: FleetClient, selector: fleet_pb2.DeviceSelector, command: fleet_pb2.Command
) -> Iterator[str]:
    """A line for each device whose rate the command would take something from: what, since when,
    and who had set it. Raises FeatherwireError."""
    from shared.wire.commands import changed_rate

    known = {device.device: device.rate_policy for device in client.devices(selector)}
    history: dict[str, list[fleet_pb2.IssuedCommand]] = {device: [] for device in known}
    for one in client.commands(selector, newest_first=True):
        if one.command.HasField("set_rate") and not _refused(one) and one.device in history:
            history[one.device].append(one)
    more = 0
    for number, (device, given) in enumerate(sorted(history.items())):
        before = given[0].command.set_rate.policy if given else known[device]
        after = command.set_rate.policy
        if command.HasField("change_rate"):
            after = changed_rate(before, command.change_rate)
        lost = [field.name for field, value in before.ListFields()
                if not _has(after, field.name) or getattr(after, field.name) != value]  # fmt: skip
        if lost and number >= MAX_SHOWN:
            more += 1
        elif lost:
            parts = [_set_by(name, before, given) for name in lost]
            yield f"{device}: this replaces {' and '.join(parts)}"
    if more:
        yield f"and so it does for {more} more"


def _set_by(name: str, before: fleet_pb2.RatePolicy, history: list[fleet_pb2.IssuedCommand]) -> str:
    """A part of a rate, and who had set it: later commands have kept it."""
    from shared.wire.commands import rate_part

    value = getattr(before, name)
    setter: fleet_pb2.IssuedCommand | None = None
    for one in history:
        policy = one.command.set_rate.policy
        if not _has(policy, name) or getattr(policy, name) != value:
            break
        setter = one
    if setter is None:
        return rate_part(name, value)
    at = setter.command.issued_at.ToDatetime().strftime("%Y-%m-%d %H:%M:%S")
    return f"{rate_part(name, value)}, set on {at} UTC by {setter.issued_by}"


def _has(policy: fleet_pb2.RatePolicy, name: str) -> bool:
    return any(field.name == name for field, _ in policy.ListFields())


def _refused(one: fleet_pb2.IssuedCommand) -> bool:
    """The device has not done it, and no later command has taken it over."""
    error = one.reply.error if one.HasField("reply") and one.reply.HasField("error") else None
    return error is not None and error.reason != "superseded"
