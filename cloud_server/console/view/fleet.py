"""The fleet as a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any
from urllib.parse import quote

from cloud_server.console.view import formats
from cloud_server.console.view.formats import cell, column, row
from cloud_server.fleet import words
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
    ticked: Collection[str] | None = None,
) -> list[dict[str, Any]]:
    """Those that fit, online ones first, at most ``MAX_ROWS``. ticked: names of devices that are;
    None: nobody ticks any."""
    chosen = [device for device in devices if matches(device, wanted)]
    chosen.sort(key=lambda one: (not one.online, one.device))
    return [_row(device, bundle_names, now, ticked) for device in chosen[:MAX_ROWS]]


def targets(devices: Iterable[fleet_pb2.Device], ticked: Collection[str]) -> list[tuple[str, str]]:
    """Whom commands may go to, as (value, text) for a list: those that are ticked, those with a
    label, and all. See ``selector``."""
    found = list(devices)
    labels = Counter(f"{name}={value}" for device in found for name, value in device.labels.items())
    several = f"{len(ticked)} ticked" if ticked else "those that are ticked (none)"
    chosen = [("ticked", several)]
    chosen += [(f"label {label}", f"{label} ({labels[label]})") for label in sorted(labels)]
    return [*chosen, ("all", f"all {len(found)} devices")]


def selector(target: str, ticked: Collection[str]) -> fleet_pb2.DeviceSelector | None:
    """What a target's value stands for; None where nothing is ticked."""
    if target == "all":
        return fleet_pb2.DeviceSelector()
    kind, _, label = target.partition(" ")
    if kind == "label":
        name, _, value = label.partition("=")
        return fleet_pb2.DeviceSelector(labels={name: value})
    return fleet_pb2.DeviceSelector(devices=sorted(ticked)) if ticked else None


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


def thumbnail(device: fleet_pb2.Device) -> str:
    """Path of its last picture, small; another one once there may be a newer."""
    if not device.HasField("state"):
        return ""
    return f"/thumbnail/{quote(device.device)}?at={device.last_seen_at.seconds // 30}"


def bundle_name(device: fleet_pb2.Device, names: Mapping[str, str]) -> str:
    """What people call the bundle that it uses. names: of the server's, by id."""
    if not device.bundle_id:
        return formats.NONE
    return device.bundle_name or words.bundle_in_words(device.bundle_id, names)


def _row(
    device: fleet_pb2.Device,
    bundle_names: Mapping[str, str],
    now: datetime | None,
    ticked: Collection[str] | None,
) -> dict[str, Any]:
    live = device.online
    pending = f" +{device.pending_commands} pending" if device.pending_commands else ""
    queue = str(device.queued_frames) if device.queued_frames else formats.NONE
    error = device.last_error.message if device.HasField("last_error") else ""
    since = formats.ago(device.last_error_at, now)
    return row(
        device.device,
        [
            cell(device.device, href=f"/device/{quote(device.device)}", image=thumbnail(device)),
            status(device, now),
            cell((words.state_in_words(device) or formats.NONE) + pending),
            cell(formats.bits_per_pixel(device.bits_per_pixel)),
            cell(formats.rate(device.frames_per_second if live else 0)),
            cell(f"{formats.size(device.bytes_per_second)}/s" if live else formats.NONE),
            cell(
                queue,
                tone="warn" if device.queued_frames else "",
                title=formats.size(device.queued_bytes) if device.queued_bytes else "",
            ),
            cell(bundle_name(device, bundle_names), title=device.bundle_id),
            cell(" ".join(f"{n}={v}" for n, v in sorted(device.labels.items())), tone="muted"),
            cell(f"{error} ({since})" if error else "", tone="bad", title=device.last_error.reason),
        ],
        ticked=None if ticked is None else device.device in ticked,
    )
