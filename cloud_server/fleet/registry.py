"""Devices in memory: who is online, what they do, who watches. Used on the event loop alone.

unknown ──Hello──> online ──its last stream ends──> offline
                     ▲                                │
                     └────────────Hello───────────────┘
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from cloud_server.database.schema import now_us
from cloud_server.fleet.commands import IssuedCommand
from cloud_server.fleet.quota import Meter, Quota
from shared.errors import SessionError
from shared.proto.featherwire.v1 import fleet_pb2, types_pb2
from shared.wire.requests import Hello

MAX_OFFLINE = 100_000
"""Devices that are remembered while they are away; beyond, those longest away are forgotten."""

MAX_ERROR_CHARACTERS = 300
"""Of a device's last error; a device may have sent it."""

LEAST_RATE = 0.01
"""A second; less is shown as 0."""


OF_A_SESSION: tuple[Literal["queued_frames", "queued_bytes", "regions"], ...] = (
    "queued_frames",
    "queued_bytes",
    "regions",
)
"""What a device's next session does not have from the one before. A rate policy it has: the server
gives it anew with every Welcome."""

MAX_FORGOTTEN = 1000
"""Devices that were forgotten of late, of which watchers may not have heard."""


Deliver = Callable[[IssuedCommand], None]
"""One stream of a device: called with a command for the device that has just been kept."""


@dataclass(slots=True, eq=False)
class Entry:
    """One device."""

    described: fleet_pb2.Device
    """What is true whether it is online or not."""
    meter: Meter
    streams: list[Deliver] = field(default_factory=list)
    """The newest last."""
    pending: int = 0
    """Commands without a reply."""
    issued: int = 0
    """How many commands were issued since the start."""
    version: int = 0
    elsewhere: bool = False
    """Whether it is online at another server that has the same log."""
    forgotten: bool = False
    """It is in the list no longer, and is not kept any more."""

    def message(self) -> fleet_pb2.Device:
        """The device as it is now."""
        device = fleet_pb2.Device()
        device.CopyFrom(self.described)
        device.online = bool(self.streams) or self.elsewhere
        device.pending_commands = self.pending
        if self.streams:
            frames, sent = self.meter.frames.value, self.meter.bytes.value
            if frames >= LEAST_RATE:
                device.frames_per_second = round(frames, 3)
                device.bytes_per_second = round(sent, 1)
            device.throttled = self.meter.delay_s() > 0
        return device


class Registry:
    """All devices that were ever here, by name."""

    def __init__(self, quota: Quota) -> None:
        self._quota = quota
        self._entries: dict[str, Entry] = {}
        self._version = 0
        self._forgotten: dict[str, int] = {}
        self.bundle_names: Mapping[str, str] = {}
        """Of the bundles that the server takes, by id."""
        self._changed = asyncio.Event()
        self.closed = False

    def add(self, described: fleet_pb2.Device, pending: int = 0) -> Entry:
        """A device as it was when the server before stopped."""
        entry = Entry(described, Meter(self._quota), pending=pending)
        self._entries[described.device] = entry
        return entry

    def join(self, hello: Hello, bundle_id: str) -> Entry:
        """A device has sent Hello; its stream is yet to be added to the entry's."""
        entry = self._entries.get(hello.device)
        if entry is None:
            entry = self.add(fleet_pb2.Device(device=hello.device))
        described = entry.described
        if described.session != hello.session:
            described.session = hello.session
            for gone in OF_A_SESSION:
                described.ClearField(gone)
        described.bundle_id = bundle_id
        described.bundle_name = self.bundle_names.get(bundle_id, "")
        described.client_version = hello.client_version
        described.labels.clear()
        described.labels.update(hello.labels)
        return entry

    def attach(self, entry: Entry, stream: Deliver) -> None:
        """The device is online, by this stream."""
        entry.streams.append(stream)
        self.seen(entry)

    def leave(self, entry: Entry, stream: Deliver) -> None:
        """A stream has ended."""
        if stream in entry.streams:
            entry.streams.remove(stream)
            self.seen(entry)
        self._forget()

    def seen(self, entry: Entry) -> None:
        """The device has sent something that watchers may want to know."""
        entry.described.last_seen_at.FromMicroseconds(now_us())
        self.touch(entry)

    def failed(self, entry: Entry, error: types_pb2.Error) -> None:
        """A frame or a command of the device's has failed."""
        described = entry.described
        described.last_error.CopyFrom(error)
        described.last_error.message = error.message[:MAX_ERROR_CHARACTERS]
        described.last_error.details.clear()
        described.last_error_at.FromMicroseconds(now_us())
        self.touch(entry)

    def touch(self, entry: Entry) -> None:
        """Something about the device has changed."""
        self._version += 1
        entry.version = self._version
        self._wake()

    def get(self, device: str) -> Entry | None:
        """The device, if it was ever here."""
        return self._entries.get(device)

    def remove(self, device: str) -> None:
        """Forget a device; watchers are told."""
        entry = self._entries.pop(device, None)
        if entry is not None:
            entry.forgotten = True
            self._version += 1
            self._forgotten.pop(device, None)
            self._forgotten[device] = self._version
            if len(self._forgotten) > MAX_FORGOTTEN:
                del self._forgotten[next(iter(self._forgotten))]
            self._wake()

    def forgotten(self, after: int, selector: fleet_pb2.DeviceSelector) -> list[str]:
        """Devices that were forgotten after that version, of those that a selector may choose."""
        return [
            device
            for device, version in self._forgotten.items()
            if version > after and (not selector.devices or device in selector.devices)
        ]

    def chosen(self, selector: fleet_pb2.DeviceSelector) -> Iterator[Entry]:
        """Those that a selector chooses, by name."""
        names: Iterable[str] = selector.devices or self._entries
        for name in sorted(set(names)):
            entry = self._entries.get(name)
            if entry is not None and all(
                entry.described.labels.get(label) == value
                for label, value in selector.labels.items()
            ):
                yield entry

    def chosen_all(self, selector: fleet_pb2.DeviceSelector) -> list[Entry]:
        """As ``chosen``; raises ``SessionError("not_found")`` for a name that was never here."""
        for name in selector.devices:
            if name not in self._entries:
                raise SessionError("not_found", f"device {name} was never here", device=name)
        return list(self.chosen(selector))

    # -- watching --------------------------------------------------------------------------------

    @property
    def version(self) -> int:
        """Rises with every change."""
        return self._version

    async def more(self, version: int, timeout_s: float) -> None:
        """Wait for a change after ``version``, the end, or so many seconds."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._version <= version and not self.closed:
                    await self._changed.wait()
        except TimeoutError:
            pass

    def close(self) -> None:
        """Wake those who watch: nothing more will come."""
        self.closed = True
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _forget(self) -> None:
        excess = len(self._entries) - MAX_OFFLINE
        if excess <= 0:
            return
        away = [one for one in self._entries.values() if not one.streams and not one.pending]
        away.sort(key=lambda one: one.described.last_seen_at.ToMicroseconds())
        for entry in away[:excess]:
            del self._entries[entry.described.device]
