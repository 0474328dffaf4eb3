"""The fleet as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from cloud_server.console.view import formats
from cloud_server.console.view.formats import cell, column, row
from shared.proto.featherwire.v1 import fleet_pb2

MAX_ROWS = 200
COLUMNS = [
    column("Device"),
    column("Status"),
    column("State", number=True),
    column("Bits/pixel", number=True),
    column("Frames/s", number=True),
    column("Rate", number=True),
    column("Queue", number=True),
    column("Bundle"),
    column("Labels"),
    column("Last error", wide=True),
]


def matches(device: fleet_pb2.Device, wanted: str) -> bool:
    """Whether every word of ``wanted`` fits: ``name=value`` a label, others a part of the name or
    of a label."""
    labels = [f"{name}={value}" for name, value in device.labels.items()]
    for word in wanted.lower().split():
        if "=" in word:
            if word not in [label.lower() for label in labels]:
                return False
        elif not any(word in text.lower() for text in (device.device, *labels)):
            return False
    return True


def rows(
    devices: Iterable[fleet_pb2.Device],
    wanted: str,
    bundle_names: Mapping[str, str],
    now: datetime | None = None,
) -> list[dict[str, Any]]:
    """Those that fit, online ones first, at most ``MAX_ROWS``."""
    chosen = [device for device in devices if matches(device, wanted)]
    chosen.sort(key=lambda one: (not one.online, one.device))
    return [_row(device, bundle_names, now) for device in chosen[:MAX_ROWS]]


def summary(devices: Iterable[fleet_pb2.Device]) -> dict[str, str]:
    """Figures of the whole fleet, by what they are of."""
    found = list(devices)
    online = [device for device in found if device.online]
    return {
        "Online": f"{len(online)} of {len(found)}",
        "Frames/s": formats.rate(sum(one.frames_per_second for one in online)),
        "Received": f"{formats.size(sum(one.bytes_per_second for one in online))}/s",
        "Waiting on devices": str(sum(one.queued_frames for one in found)),
        "Commands pending": str(sum(one.pending_commands for one in found)),
    }


def status(device: fleet_pb2.Device, now: datetime | None = None) -> dict[str, Any]:
    """Whether it is online, as a cell."""
    if not device.online:
        return cell(f"away {formats.ago(device.last_seen_at, now)}", tone="muted")
    if device.throttled:
        return cell("held back", tone="warn", title="its quota is used up; its frames wait there")
    return cell("online", tone="good")


def policy(wanted: fleet_pb2.RatePolicy) -> str:
    """A rate policy in a few words; nothing when there is none."""
    parts = []
    match wanted.WhichOneof("policy"):
        case "state":
            parts.append(f"state {wanted.state}")
        case "bits_per_pixel":
            parts.append(f"{wanted.bits_per_pixel:g} bits/pixel")
        case "frame_bytes":
            parts.append(f"{formats.size(wanted.frame_bytes)} a frame")
        case "bytes_per_second":
            parts.append(f"{formats.size(wanted.bytes_per_second)}/s")
    if wanted.max_frames_per_second:
        parts.append(f"{wanted.max_frames_per_second:g} frames/s")
    return ", ".join(parts)


def _row(
    device: fleet_pb2.Device, bundle_names: Mapping[str, str], now: datetime | None
) -> dict[str, Any]:
    live = device.online
    pending = f" +{device.pending_commands} pending" if device.pending_commands else ""
    queue = str(device.queued_frames) if device.queued_frames else formats.NONE
    error = device.last_error.message if device.HasField("last_error") else ""
    since = formats.ago(device.last_error_at, now)
    return row(
        device.device,
        [
            cell(device.device, href=f"/device/{quote(device.device)}"),
            status(device, now),
            cell((str(device.state) if device.HasField("state") else formats.NONE) + pending),
            cell(formats.bits_per_pixel(device.bits_per_pixel)),
            cell(formats.rate(device.frames_per_second if live else 0)),
            cell(f"{formats.size(device.bytes_per_second)}/s" if live else formats.NONE),
            cell(
                queue,
                tone="warn" if device.queued_frames else "",
                title=formats.size(device.queued_bytes) if device.queued_bytes else "",
            ),
            cell(
                bundle_names.get(device.bundle_id, device.bundle_id[:8] or formats.NONE),
                title=device.bundle_id,
            ),
            cell(" ".join(f"{n}={v}" for n, v in sorted(device.labels.items())), tone="muted"),
            cell(f"{error} ({since})" if error else "", tone="bad", title=device.last_error.reason),
        ],
    )
