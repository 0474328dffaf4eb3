"""Commands and the audit in words, for tables that people read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shared.proto.featherwire.v1 import fleet_pb2
from shared.wire.commands import rate_part

_PARTS = {
    "state": "state",
    "bits_per_pixel": "bits/pixel",
    "frame_bytes": "bytes a frame",
    "bytes_per_second": "kbit/s",
    "max_frames_per_second": "frames/s",
}

_CALLS = {
    "Connect": "a stream of frames",
    "Analyze": "the analysis of a picture",
    "SendCommand": "a command",
    "CancelCommands": "taking a command back",
    "ForgetDevice": "forgetting a device",
    "ListCommands": "the list of commands",
    "ListAudit": "the audit",
    "ListDevices": "the list of devices",
    "WatchDevices": "the list of devices",
    "ListResults": "results",
    "GetResult": "results",
    "SubscribeResults": "results",
    "GetFrame": "a frame",
    "ListBundles": "the list of bundles",
    "GetBundle": "a bundle",
    "GetCaller": "the question who this is",
    "": "calls",
}

_ACTIONS = {
    "SendCommand": "commanded",
    "CommandReply": "answered",
    "CancelCommands": "cancelled",
    "ForgetDevice": "forgot",
    "CreateToken": "made a token",
    "RevokeToken": "revoked a token",
    "Refused": "was refused",
}

MAX_NAMED = 5
"""So many devices are named one by one; of more their number is told."""

_KINDS = {
    "set_rate": "rate",
    "set_tasks": "tasks",
    "set_regions": "regions",
    "use_bundle": "bundle",
    "refine_frame": "refinement",
    "key_frame": "key frame",
}


def told_apart(bundles: Iterable[tuple[str, str, str]]) -> dict[str, str]:
    """What people call bundles, by id; given id, name and version of each.

    The name, with the version where two have one name, and with the id where they have that too.
    """
    given = list(bundles)
    names = Counter(name for _, name, _ in given)
    versions = Counter((name, version) for _, name, version in given)
    found = {}
    for bundle_id, name, version in given:
        found[bundle_id] = name if names[name] == 1 else f"{name} {version}"
        if versions[name, version] > 1:
            found[bundle_id] += f" ({bundle_id[:8]})"
    return found


def bundle_in_words(bundle_id: str, names: Mapping[str, str]) -> str:
    """A bundle's name; of one that the server does not take any more, what is left of it."""
    return names.get(bundle_id) or f"one that is not served ({bundle_id[:8]})"


def policy_in_words(wanted: fleet_pb2.RatePolicy) -> str:
    """A rate policy; nothing when there is none."""
    return ", ".join(rate_part(field.name, value) for field, value in wanted.ListFields())


def _change_in_words(change: fleet_pb2.ChangeRate) -> str:
    """What becomes of the parts that a change names."""
    kept = {field.name: value for field, value in change.policy.ListFields()}
    parts = [
        rate_part(name, kept[name]) if name in kept else f"{_PARTS.get(name, name)} its own"
        for name in change.mask.paths
    ]
    return ", ".join(parts)


def command_in_words(command: fleet_pb2.Command, names: Mapping[str, str]) -> str:
    """names: of bundles, by id."""
    match command.WhichOneof("command"):
        case "set_rate":
            return f"rate: {policy_in_words(command.set_rate.policy) or 'its own'}"
        case "change_rate":
            return f"rate: {_change_in_words(command.change_rate)}"
        case "set_tasks":
            return f"tasks: {', '.join(command.set_tasks.tasks) or 'none'}"
        case "set_regions":
            states = [str(one.state) for one in command.set_regions.regions]
            if not states:
                return "regions: none"
            return f"regions: {len(states)} (state {', '.join(states)})"
        case "use_bundle":
            return f"bundle: {bundle_in_words(command.use_bundle.bundle_id, names)}"
        case "refine_frame":
            refine = command.refine_frame
            return f"refine frame {refine.sequence} to state {refine.state}"
        case "key_frame":
            return "key frame"
    return "something of a newer release"


def state_in_words(device: fleet_pb2.Device) -> str:
    """The state of a device's last frame; where regions are finer, ``5, region 0``.

    A frame with regions has the finest of their states as its own. That of the rest is known where
    an operator has set it; else only the region's is told.
    """
    if not device.HasField("state"):
        return ""
    if not any(one.state == device.state for one in device.regions):
        return str(device.state)
    policy = device.rate_policy
    if policy.WhichOneof("policy") != "state":
        return f"region {device.state}"
    return (
        f"{policy.state}, region {device.state}"
        if policy.state > device.state
        else str(device.state)
    )


def action_in_words(entry: fleet_pb2.AuditEntry) -> str:
    """What somebody did, as a verb; :func:`audit_in_words` goes on."""
    return _ACTIONS.get(entry.action, entry.action)


def audit_in_words(entry: fleet_pb2.AuditEntry, names: Mapping[str, str]) -> str:
    """What somebody did, or was refused. names: of bundles, by id."""
    try:
        what = json.loads(entry.what)
    except ValueError:
        return entry.what[:300]
    if not isinstance(what, dict) or "cut" in what:
        return str(what.get("cut", what) if isinstance(what, dict) else what)[:300]
    try:
        return _WORDS.get(entry.action, _plain)(what, names)
    except (KeyError, TypeError, AttributeError, ValueError):
        return _plain(what, names)  # written by another release


def _sent(what: Mapping[str, Any], names: Mapping[str, str]) -> str:
    ids = what["command_ids"]
    given = f" ({ids[0]})" if len(ids) == 1 else f" ({len(ids)} commands)"
    return f"{_command(what, names)}, to {_selected(what['selector'])}{given}"


def _replied(what: Mapping[str, Any], _names: Mapping[str, str]) -> str:
    kind = _KINDS.get(what["kind"], what["kind"])
    if "reason" not in what:
        return f"{kind} ({what['command_id']}): done"
    return f"{kind} ({what['command_id']}) refused: {what['message']}"


def _cancelled(what: Mapping[str, Any], _names: Mapping[str, str]) -> str:
    return _listed(what["commands"])


def _forgot(what: Mapping[str, Any], _names: Mapping[str, str]) -> str:
    waiting = what.get("commands")
    cancelled = f", cancelled {_listed(waiting)}" if waiting else ""
    return f"device {what['device']}{cancelled}"


def _token(what: Mapping[str, Any], _names: Mapping[str, str]) -> str:
    name = f"{what['name']} " if what.get("name") else ""
    device = f", of device {what['device']}" if what.get("device") else ""
    return f"token {name}({what['id']}), role {what['role']}{device}"


def _refused(what: Mapping[str, Any], _names: Mapping[str, str]) -> str:
    times = f" ({what['times']} times more)" if what.get("times") else ""
    if what.get("for"):
        return f"log-in at the console from {what['for']} failed: {what['message']}{times}"
    call = _CALLS.get(what["call"], f"the call {what['call']}")
    return f"{call}: {what['message']}{times}"


def _command(what: Mapping[str, Any], names: Mapping[str, str]) -> str:
    from google.protobuf.json_format import ParseDict

    command = ParseDict(what["command"], fleet_pb2.Command(), ignore_unknown_fields=True)
    return command_in_words(command, names)


def _selected(selector: Mapping[str, Any]) -> str:
    devices: Sequence[str] = selector["devices"]
    labels = " ".join(f"{name}={value}" for name, value in sorted(selector["labels"].items()))
    named = ", ".join(devices) if len(devices) <= MAX_NAMED else f"{len(devices)} devices"
    if labels:
        return f"{named or 'devices'} with {labels}"
    return named or "every device"


def _listed(commands: Sequence[Mapping[str, Any]]) -> str:
    if len(commands) > MAX_NAMED:
        return f"{len(commands)} commands"
    return ", ".join(
        f"{one['command_id']} ({_KINDS.get(one['kind'], one['kind'])} of {one['device']})"
        for one in commands
    )


def _plain(what: Mapping[str, Any], _names: Mapping[str, str]) -> str:
    return _flat(what)[:300]


def _flat(value: Any) -> str:
    if isinstance(value, Mapping):
        inner = (f"{name} {_flat(one)}" for name, one in value.items() if one not in ({}, [], ""))
        return ", ".join(inner)
    if isinstance(value, list):
        return " ".join(_flat(one) for one in value)
    return str(value)


_WORDS = {
    "SendCommand": _sent,
    "CommandReply": _replied,
    "CancelCommands": _cancelled,
    "ForgetDevice": _forgot,
    "CreateToken": _token,
    "RevokeToken": _token,
    "Refused": _refused,
}
