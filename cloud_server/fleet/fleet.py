"""The fleet: streams tell it of their devices, operators tell it what devices shall do."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol

import structlog
from google.protobuf.json_format import MessageToDict
from sqlalchemy import Connection, insert, select, update

from cloud_server.database import Database
from cloud_server.database.schema import DEVICES
from cloud_server.fleet import orders
from cloud_server.fleet.audit import note
from cloud_server.fleet.orders import REFINE, Order
from cloud_server.fleet.quota import Quota
from cloud_server.fleet.registry import Entry, Registry
from shared.errors import SessionError
from shared.proto.featherwire.v1 import fleet_pb2, types_pb2
from shared.wire.requests import Hello


class Outlet(Protocol):
    """A stream of a device."""

    def give(self, order: Order) -> None:
        """Give the device a command."""


class Link:
    """One stream's part in the fleet: its device, and the commands that it was given."""

    def __init__(self, fleet: Fleet, entry: Entry, session: str, outlet: Outlet) -> None:
        self.entry = entry
        self._fleet = fleet
        self._session = session
        self._outlet = outlet
        self._given: dict[str, Order] = {}
        self._last = 0
        self.ready = False

    async def give_pending(self) -> None:
        """Give the device what it has not answered; from here on it gets commands as they come.

        Raises ``StorageError``.
        """
        while not self.ready:
            seen = self.entry.orders
            for order in await self._fleet.pending(self.entry.described.device, self._last):
                await self._give(order)
            self.ready = self.entry.orders == seen

    async def rate_policy(self) -> fleet_pb2.RatePolicy | None:
        """What an operator has set, also where the device has not been told yet; None: nothing.

        Raises ``StorageError``.
        """
        described = self.entry.described
        waiting = await self._fleet.pending(described.device, 0)
        told = [order.command.set_rate.policy for order in waiting if order.kind == "set_rate"]
        if told:
            return told[-1]
        return described.rate_policy if described.HasField("rate_policy") else None

    def issued(self, order: Order) -> None:
        """Give the device a command that has just been kept."""
        if self.ready and order.id > self._last:
            self._fleet.later(self._give(order))

    async def replied(self, reply: fleet_pb2.CommandReply) -> None:
        """The device has answered; what it was not given here is ignored. Raises StorageError."""
        order = self._given.pop(reply.command_id, None)
        if order is not None:
            await self._fleet.answered(self.entry, order, reply)

    def status(self, status: fleet_pb2.DeviceStatus) -> None:
        """The device has said how it is."""
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

    async def _give(self, order: Order) -> None:
        if order.id <= self._last:
            return
        self._last = order.id
        refine = order.command.refine_frame
        if order.kind == REFINE and refine.session not in {"", self._session}:
            error = SessionError(
                "refine_evicted", f"the device has left session {refine.session} and its frames"
            )
            await self._fleet.answered(self.entry, order, orders.failed_reply(error))
            return
        self._given[order.command.command_id] = order
        self._outlet.give(order)


class Fleet:
    """All devices of a server. Its calls are awaited on one event loop."""

    def __init__(self, database: Database, quota: Quota | None = None) -> None:
        """Blocks while it reads what is known. Raises ``StorageError``."""
        self._database = database
        self.registry = Registry(quota or Quota())
        self._later: set[asyncio.Task[Any]] = set()
        self.tells: Callable[[Connection, fleet_pb2.Device], bool] = lambda _one, _device: True
        """Whether it is for this server to say how a device is, where several share the log."""
        waiting = database.read_now(orders.pending_counts)
        for described in database.read_now(_described):
            self.registry.add(described, waiting.get(described.device, 0))

    # -- for streams -----------------------------------------------------------------------------

    def join(self, hello: Hello, bundle_id: str, outlet: Outlet) -> Link:
        """A stream has said Hello; the device counts as online until ``Link.close``."""
        entry = self.registry.join(hello, bundle_id)
        link = Link(self, entry, hello.session, outlet)
        self.registry.attach(entry, link)
        self.later(self._keep(entry))
        return link

    def left(self, entry: Entry, link: Link) -> None:
        """A stream of the device has ended."""
        self.registry.leave(entry, link)
        self.later(self._keep(entry))

    async def pending(self, device: str, after: int) -> list[Order]:
        """Commands behind ``after`` that the device has not answered. Raises ``StorageError``."""
        return await self._database.read(lambda one: orders.pending(one, device, after))

    async def answered(self, entry: Entry, order: Order, reply: fleet_pb2.CommandReply) -> None:
        """Keep the device's reply, and what it does from now on. Raises ``StorageError``."""

        def change(connection: Connection) -> bool:
            first = orders.answer(connection, order.id, reply)
            if first and (reply.HasField("error") or order.kind == "use_bundle"):
                note(connection, f"device {order.device}", "CommandReply", _told(order, reply))
            return first

        if not await self._database.write(change):
            return  # superseded meanwhile
        entry.pending = max(0, entry.pending - 1)
        log = structlog.get_logger().bind(device=order.device, command=order.command.command_id)
        if reply.HasField("error"):
            log.info("command_refused", kind=order.kind, reason=reply.error.reason[:64])
            self.registry.failed(entry, reply.error)
        else:
            log.info("command_done", kind=order.kind)
            self._follow(entry, order.command)
            self.later(self._keep(entry))
        self.registry.seen(entry)

    # -- for operators ---------------------------------------------------------------------------

    async def issue(
        self, selector: fleet_pb2.DeviceSelector, command: fleet_pb2.Command, who: str
    ) -> list[Order]:
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

        def change(connection: Connection) -> list[Order]:
            issued = [orders.issue(connection, device, command, who) for device in devices]
            what = {
                "selector": {
                    "devices": list(selector.devices),
                    "labels": dict(selector.labels),
                },
                "command": _as_json(command),
                "command_ids": [order.command.command_id for order in issued],
            }
            note(connection, who, "SendCommand", what)
            return issued

        issued = await self._database.write(change)
        counts = await self._database.read(orders.pending_counts)
        for entry, order in zip(entries, issued, strict=True):
            entry.orders += 1
            entry.pending = counts.get(order.device, 0)
            self.registry.touch(entry)
            if entry.streams:
                entry.streams[-1].issued(order)
        return issued

    async def read(self, query: Callable[[Connection], Any]) -> Any:
        """See ``Database.read``."""
        return await self._database.read(query)

    # -- life ------------------------------------------------------------------------------------

    def later(self, work: Any) -> None:
        """Do something without waiting for it; what fails is logged."""
        task = asyncio.ensure_future(work)
        self._later.add(task)
        task.add_done_callback(self._done)

    def drain(self) -> None:
        """Tell those who watch to go elsewhere."""
        self.registry.close()

    async def close(self) -> None:
        """Finish what was put off."""
        while self._later:
            await asyncio.wait(set(self._later))

    def _done(self, task: asyncio.Task[Any]) -> None:
        self._later.discard(task)
        if not task.cancelled() and task.exception() is not None:
            structlog.get_logger().error("fleet_not_kept", error=str(task.exception()))

    async def _keep(self, entry: Entry) -> None:
        described = fleet_pb2.Device()
        described.CopyFrom(entry.described)
        described.online = bool(entry.streams)

        def change(connection: Connection) -> None:
            if self.tells(connection, described):
                _keep(connection, described)

        await self._database.write(change)

    @staticmethod
    def _follow(entry: Entry, command: fleet_pb2.Command) -> None:
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


def _keep(connection: Connection, described: fleet_pb2.Device) -> None:
    device = described.device
    values = {
        "last_seen_at": described.last_seen_at.ToMicroseconds(),
        "described": described.SerializeToString(),
    }
    changed = connection.execute(update(DEVICES).where(DEVICES.c.device == device).values(**values))
    if changed.rowcount == 0:
        connection.execute(insert(DEVICES).values(device=device, **values))


def _described(connection: Connection) -> list[fleet_pb2.Device]:
    rows = connection.execute(select(DEVICES.c.described))
    return [fleet_pb2.Device.FromString(row.described) for row in rows]


def _told(order: Order, reply: fleet_pb2.CommandReply) -> dict[str, Any]:
    error = reply.error
    outcome = {"reason": error.reason, "message": error.message} if reply.HasField("error") else {}
    return {"command_id": order.command.command_id, "kind": order.kind, **outcome}


def _as_json(command: fleet_pb2.Command) -> Any:
    return MessageToDict(command, preserving_proto_field_name=True)
