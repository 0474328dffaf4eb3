"""Devices and commands as JSON-ready values, for programs that read the command line."""

from __future__ import annotations

from typing import Any

from google.protobuf.json_format import MessageToDict

from shared.proto.featherwire.v1 import fleet_pb2


def device_document(device: fleet_pb2.Device) -> dict[str, Any]:
    """All of a device that operators see, JSON-ready."""
    policy = MessageToDict(device.rate_policy, preserving_proto_field_name=True)
    return {
        "device": device.device,
        "session": device.session,
        "online": device.online,
        "last_seen_at": device.last_seen_at.ToJsonString(),
        "bundle_id": device.bundle_id,
        "bundle_name": device.bundle_name,
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


def command_document(issued: fleet_pb2.IssuedCommand) -> dict[str, Any]:
    """A command, whom it is for, and what became of it."""
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
