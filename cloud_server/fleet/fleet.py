"""The fleet: streams report how their devices are, operators give devices commands."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import structlog
from google.protobuf.json_format import MessageToDict
from sqlalchemy import Connection, delete, insert, select, update

from cloud_server.database import Database
from cloud_server.database.schema import DEVICES, now_us
from cloud_server.fleet import commands
from cloud_server.fleet.audit import note
from cloud_server.fleet.commands import REFINE, IssuedCommand
from cloud_server.fleet.quota import Quota
from cloud_server.fleet.refusals import Refusals
from cloud_server.fleet.registry import Entry, Registry
from shared.errors import SessionError
from shared.proto.featherwire.v1 import fleet_pb2, types_pb2
from shared.wire.requests import Hello

T = TypeVar("T")

DAY_US = 86_400_000_000


class DeviceConnection:
    """One stream's part in the fleet: its device, and the commands that it was given."""

    def __init__(
        self, fleet: Fleet, entry: Entry, session: str, give: Callable[[IssuedCommand], None]
    ) -> None:
        self.entry = entry
        self._fleet = fleet
        self._session = session
        self._send = give
        self._given: dict[str, IssuedCommand] = {}
        self._last = 0
        self.ready = False

    async def give_pending(self) -> None:
        """Send the device what it has not answered; from here on it gets commands as they come.

        Raises ``StorageError``.
        """
        while not self.ready:
            seen = self.entry.issued
            for issued in await self._fleet.pending(self.entry.described.device, self._last):
                await self._give(issued)
            self.ready = self.entry.issued == seen

    async def rate_policy(self) -> fleet_pb2.RatePolicy | None:
        """What an operator has set, also where the device has not got it yet; None: nothing.

        Raises ``StorageError``.
        """
        described = self.entry.described
        waiting = await self._fleet.pending(described.device, 0)
        waiting_policies = [
            one.command.set_rate.policy for one in waiting if one.kind == "set_rate"
        ]
        if waiting_policies:
            return waiting_policies[-1]
        return described.rate_policy if described.HasField("rate_policy") else None

    def deliver(self, issued: IssuedCommand) -> None:
        """Give the device a command that has just been kept."""
        if self.ready and issued.id > self._last:
            self._fleet.later(self._give(issued))

    async def replied(self, reply: fleet_pb2.CommandReply) -> None:
        """The device has answered; what it was not given here is ignored. Raises StorageError."""
        issued = self._given.pop(reply.command_id, None)
        if issued is not None:
            await self._fleet.answered(self.entry, issued, reply)

    def status(self, status: fleet_pb2.DeviceStatus) -> None:
        """Take a device's report of how it is."""
        self.entry.described.queued_frames = min(status.queued_frames, 2**63)
        self.entry.described.queued_bytes = min(status.queued_bytes, 2**63)
        self._fleet.registry.seen(self.entry)

    def frames(
        self,
        frames: int,
        *,
        message_bytes: int,
        state: int | None = None,
        bits_per_pixel: float = 0.0,
    ) -> None:
        """The device has sent frames, or a refinement: then state is None.

        state, bits_per_pixel: of the last one.
        """
        self.entry.meter.count(frames=frames, bytes=message_bytes)
        # They wait there no longer; its next status says it exactly, and may never come.
        described = self.entry.described
        described.queued_frames = max(0, described.queued_frames - frames)
        described.queued_bytes = max(0, described.queued_bytes - message_bytes)
        if not described.queued_frames:
            described.queued_bytes = 0
        if state is not None:
            self.entry.described.state = min(state, 255)
            self.entry.described.bits_per_pixel = bits_per_pixel
        self._fleet.registry.seen(self.entry)

    def failed(self, error: types_pb2.Error) -> None:
        """A frame of the device's could not be processed."""
        self._fleet.registry.failed(self.entry, error)

    def close(self) -> None:
        """The stream has ended."""
        self.ready = False
        self._fleet.left(self.entry, self)

    async def _give(self, issued: IssuedCommand) -> None:
        if issued.id <= self._last:
            return
        self._last = issued.id
        refine = issued.command.refine_frame
        if issued.kind == REFINE and refine.session not in {"", self._session}:
            error = SessionError(
                "refine_evicted", f"the device has left session {refine.session} and its frames"
            )
            await self._fleet.answered(self.entry, issued, commands.failed_reply(error))
            return
        self._given[issued.command.command_id] = issued
        self._send(issued)


class Fleet:
    """All devices of a server. Its calls are awaited on one event loop."""

    def __init__(self, database: Database, quota: Quota | None = None) -> None:
        """Blocks while it reads what is known. Raises ``StorageError``."""
        self._database = database
        self.registry = Registry(quota or Quota())
        self.refusals = Refusals(database)
        self._later: set[asyncio.Task[Any]] = set()
        self.owns: Callable[[Connection, fleet_pb2.Device], bool] = lambda _one, _device: True
        """Whether it is this server that keeps how a device is, where several share the log."""
        waiting = database.read_now(commands.pending_counts)
        for described in database.read_now(_described):
            self.registry.add(described, waiting.get(described.device, 0))

    # -- for streams -----------------------------------------------------------------------------

    def join(
        self, hello: Hello, bundle_id: str, give: Callable[[IssuedCommand], None]
    ) -> DeviceConnection:
        """A stream has sent Hello; the device counts as online until ``DeviceConnection.close``."""
        entry = self.registry.join(hello, bundle_id)
        connection = DeviceConnection(self, entry, hello.session, give)
        self.registry.attach(entry, connection.deliver)
        self.later(self._keep(entry))
        return connection

    def left(self, entry: Entry, connection: DeviceConnection) -> None:
        """A stream of the device has ended."""
        self.registry.leave(entry, connection.deliver)
        self.later(self._keep(entry))

    async def pending(self, device: str, after: int) -> list[IssuedCommand]:
        """Commands behind ``after`` that the device has not answered. Raises ``StorageError``."""
        return await self._database.read(lambda one: commands.pending(one, device, after))

    async def answered(
        self, entry: Entry, issued: IssuedCommand, reply: fleet_pb2.CommandReply
    ) -> None:
        """Keep the device's reply, and what it does from now on. Raises ``StorageError``."""

        def change(connection: Connection) -> tuple[bool, bool]:
            first = commands.answer(connection, issued.id, reply)
            late = not first and commands.answer_late(connection, issued.id, reply)
            if late or (first and (reply.HasField("error") or issued.kind == "use_bundle")):
                note(connection, f"device {issued.device}", "CommandReply", _audited(issued, reply))
            return first, late

        first, late = await self._database.write(change)
        if not first and not late:
            return  # superseded meanwhile
        if first:
            entry.pending = max(0, entry.pending - 1)
        log = structlog.get_logger().bind(device=issued.device, command=issued.command.command_id)
        if reply.HasField("error"):
            log.info("command_refused", kind=issued.kind, reason=reply.error.reason[:64])
            self.registry.failed(entry, reply.error)
        else:
            log.info("command_done", kind=issued.kind)
            self._follow(entry, issued.command)
            self.later(self._keep(entry))
        self.registry.seen(entry)

    # -- for operators ---------------------------------------------------------------------------

    async def issue(
        self, selector: fleet_pb2.DeviceSelector, command: fleet_pb2.Command, who: str
    ) -> list[IssuedCommand]:
        """Keep a command for every chosen device, and give it to those that are online.

        All of them or none, with an entry in the audit. Raises ``SessionError``: not_found,
        bad_selector, too_many_commands; and ``StorageError``.
        """
        entries = self.registry.chosen_all(selector)
        if command.WhichOneof("command") == REFINE:
            if len(selector.devices) != 1 or len(entries) != 1:
                raise SessionError(
                    "bad_selector", "a frame is one device's: name exactly one", field="selector"
                )
            if not command.refine_frame.session:
                command.refine_frame.session = entries[0].described.session
        devices = [entry.described.device for entry in entries]

        def change(connection: Connection) -> list[IssuedCommand]:
            issued = [commands.issue(connection, device, command, who) for device in devices]
            what = {
                "selector": {
                    "devices": list(selector.devices),
                    "labels": dict(selector.labels),
                },
                "command": _as_json(command),
                "command_ids": [one.command.command_id for one in issued],
            }
            note(connection, who, "SendCommand", what)
            return issued

        issued = await self._database.write(change)
        counts = await self._database.read(commands.pending_counts)
        for entry, one in zip(entries, issued, strict=True):
            entry.issued += 1
            entry.pending = counts.get(one.device, 0)
            self.registry.touch(entry)
            if entry.streams:
                entry.streams[-1](one)
        return issued

    async def cancel(self, command_ids: Sequence[str], who: str) -> list[str]:
        """Take back those of the commands that have no answer; returns their ids.

        Raises ``SessionError("not_found")`` for an id that there is not, and ``StorageError``.
        """

        def change(connection: Connection) -> list[IssuedCommand]:
            found = commands.cancel(connection, command_ids, who)
            if found:
                note(connection, who, "CancelCommands", _cancelled(found))
            return found

        found = await self._database.write(change)
        counts = await self._database.read(commands.pending_counts)
        for device in {one.device for one in found}:
            entry = self.registry.get(device)
            if entry is not None:
                entry.pending = counts.get(device, 0)
                self.registry.touch(entry)
        return [one.command.command_id for one in found]

    async def forget(self, device: str, who: str) -> None:
        """Take a device that is away out of the list, with the commands that wait for it.

        Raises ``SessionError``: not_found, device_online; and ``StorageError``.
        """
        (entry,) = self.registry.chosen_all(fleet_pb2.DeviceSelector(devices=[device]))
        if entry.streams or entry.elsewhere:
            raise SessionError(
                "device_online",
                f"device {device} is connected; stop it, or revoke its token, then forget it",
                device=device,
            )

        def change(connection: Connection) -> None:
            found = commands.cancel_all_of(connection, device, "the device was forgotten")
            commands.forget_answered(connection, device)
            _forget(connection, device)
            note(connection, who, "ForgetDevice", {"device": device, **_cancelled(found)})
            entry.forgotten = True  # what is still to be written of it comes behind this

        try:
            await self._database.write(change)
        except BaseException:
            entry.forgotten = False
            raise
        if entry.streams:  # it has come back meanwhile
            entry.forgotten = False
            self.later(self._keep(entry))
        else:
            self.registry.remove(device)

    async def read(self, query: Callable[[Connection], T]) -> T:
        """See ``Database.read``."""
        return await self._database.read(query)

    # -- life ------------------------------------------------------------------------------------

    def later(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something without waiting for it; what fails is logged."""
        task = asyncio.ensure_future(work)
        self._later.add(task)
        task.add_done_callback(self._done)

    def drain(self) -> None:
        """End the streams of those who watch."""
        self.registry.close()

    async def close(self) -> None:
        """Finish what was put off."""
        while self._later:
            await asyncio.wait(set(self._later))
        await self.refusals.close()

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._later.discard(task)
        if not task.cancelled() and task.exception() is not None:
            structlog.get_logger().error("fleet_not_kept", error=str(task.exception()))

    async def _keep(self, entry: Entry) -> None:
        described = fleet_pb2.Device()
        described.CopyFrom(entry.described)
        described.online = bool(entry.streams)

        def change(connection: Connection) -> None:
            if not entry.forgotten and self.owns(connection, described):
                _keep(connection, described)

        await self._database.write(change)

    def _follow(self, entry: Entry, command: fleet_pb2.Command) -> None:
        """What the device does from now on."""
        described = entry.described
        match command.WhichOneof("command"):
            case "set_rate":
                described.rate_policy.CopyFrom(command.set_rate.policy)
            case "set_tasks":
                del described.tasks[:]
                described.tasks.extend(command.set_tasks.tasks)
            case "set_regions":
                del described.regions[:]
                described.regions.extend(command.set_regions.regions)
            case "use_bundle":
                described.bundle_id = command.use_bundle.bundle_id
                described.bundle_name = self.registry.bundle_names.get(described.bundle_id, "")


def _keep(connection: Connection, described: fleet_pb2.Device) -> None:
    device = described.device
    values = {
        "last_seen_at": described.last_seen_at.ToMicroseconds(),
        "described": described.SerializeToString(),
    }
    changed = connection.execute(update(DEVICES).where(DEVICES.c.device == device).values(**values))
    if changed.rowcount == 0:
        connection.execute(insert(DEVICES).values(device=device, **values))


def _forget(connection: Connection, device: str) -> None:
    """Its row stays for a day, empty: so servers that share the database hear of it."""
    now = now_us()
    connection.execute(
        update(DEVICES).where(DEVICES.c.device == device).values(described=b"", last_seen_at=now)
    )
    connection.execute(
        delete(DEVICES).where(DEVICES.c.described == b"", DEVICES.c.last_seen_at < now - DAY_US)
    )


def _described(connection: Connection) -> list[fleet_pb2.Device]:
    rows = connection.execute(select(DEVICES.c.described).where(DEVICES.c.described != b""))
    return [fleet_pb2.Device.FromString(row.described) for row in rows]


def _audited(issued: IssuedCommand, reply: fleet_pb2.CommandReply) -> dict[str, Any]:
    error = reply.error
    outcome = {"reason": error.reason, "message": error.message} if reply.HasField("error") else {}
    return {"command_id": issued.command.command_id, "kind": issued.kind, **outcome}


def _cancelled(found: Sequence[IssuedCommand]) -> dict[str, Any]:
    return {
        "commands": [
            {"command_id": one.command.command_id, "device": one.device, "kind": one.kind}
            for one in found
        ]
    }


def _as_json(command: fleet_pb2.Command) -> Any:
    return MessageToDict(command, preserving_proto_field_name=True)
