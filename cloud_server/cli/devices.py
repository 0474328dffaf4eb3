"""Devices and commands, as documents and as rows of tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shared.proto.featherwire.v1 import fleet_pb2

COLUMNS = (
    "device",
    "online",
    "state",
    "rate",
    "frames/s",
    "kB/s",
    "queue",
    "pending",
    "bundle",
    "version",
    "labels",
    "last seen",
)
"""Of `device_row`."""


def device_document(device: fleet_pb2.Device) -> dict[str, Any]:
    """All of a device that operators see, JSON-ready."""
    from google.protobuf.json_format import MessageToDict

    policy = MessageToDict(device.rate_policy, preserving_proto_field_name=True)
    return {
        "device": device.device,
        "session": device.session,
        "online": device.online,
        "last_seen_at": device.last_seen_at.ToJsonString(),
        "bundle_id": device.bundle_id,
        "client_version": device.client_version,
        "state": device.state if device.HasField("state") else None,
        "frames_per_second": device.frames_per_second,
        "bytes_per_second": device.bytes_per_second,
        "throttled": device.throttled,
        "queued_frames": device.queued_frames,
        "queued_bytes": device.queued_bytes,
        "pending_commands": device.pending_commands,
        "rate_policy": policy,
        "tasks": list(device.tasks),
        "regions": [
            MessageToDict(region, preserving_proto_field_name=True) for region in device.regions
        ],
        "labels": dict(device.labels),
    }


def device_row(device: fleet_pb2.Device) -> tuple[str, ...]:
    """A device in a line."""
    return (
        device.device,
        "throttled" if device.throttled else "online" if device.online else "-",
        str(device.state) if device.HasField("state") else "-",
        _rate(device.rate_policy),
        f"{device.frames_per_second:.2f}",
        f"{device.bytes_per_second / 1e3:.1f}",
        str(device.queued_frames),
        str(device.pending_commands),
        device.bundle_id[:16],
        device.client_version,
        ", ".join(f"{name}={value}" for name, value in sorted(device.labels.items())),
        device.last_seen_at.ToJsonString(),
    )


def command_document(issued: fleet_pb2.IssuedCommand) -> dict[str, Any]:
    """A command, whom it is for, and what became of it."""
    from google.protobuf.json_format import MessageToDict

    kind = issued.command.WhichOneof("command") or "unknown"
    content = MessageToDict(getattr(issued.command, kind), preserving_proto_field_name=True)
    outcome, message = "pending", None
    if issued.HasField("reply"):
        failed = issued.reply.HasField("error")
        outcome = issued.reply.error.reason if failed else "done"
        message = issued.reply.error.message if failed else None
    return {
        "id": issued.command.command_id,
        "device": issued.device,
        "issued": issued.command.issued_at.ToJsonString(),
        "by": issued.issued_by,
        "command": {kind: content},
        "outcome": outcome,
        "message": message,
        "replied": issued.replied_at.ToJsonString() if issued.HasField("replied_at") else None,
    }


def _rate(policy: fleet_pb2.RatePolicy) -> str:
    """What an operator has set; a dash where the device chooses itself."""
    said = {
        "state": f"state {policy.state}",
        "bits_per_pixel": f"{policy.bits_per_pixel:g} bits/pixel",
        "frame_bytes": f"{policy.frame_bytes} bytes",
        "bytes_per_second": f"{8 * policy.bytes_per_second / 1e3:g} kbit/s",
    }
    parts = [said[named]] if (named := policy.WhichOneof("policy")) else []
    if policy.max_frames_per_second:
        parts.append(f"{policy.max_frames_per_second:g} frames/s")
    return ", ".join(parts) or "-"
