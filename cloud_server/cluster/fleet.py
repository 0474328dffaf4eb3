"""Devices and commands of other servers."""

from __future__ import annotations

import time

from sqlalchemy import Connection, func, select

from cloud_server.database import Database
from cloud_server.database.schema import COMMANDS, DEVICES, OWNERS, SERVERS, SESSIONS
from cloud_server.fleet import orders
from cloud_server.fleet.fleet import Fleet
from cloud_server.fleet.orders import Order
from cloud_server.results.records import SessionKey
from shared.proto.featherwire.v1 import fleet_pb2

DEVICES_EVERY_S = 1.0
OVERLAP_US = 10_000_000
"""Servers' clocks differ: devices seen so long before the newest are read again."""


class FleetTail:
    """Gives devices here the commands that were issued elsewhere, and knows devices of elsewhere.

    What these send a second is known to their own server alone.
    """

    def __init__(self, database: Database, fleet: Fleet, server: str) -> None:
        """Blocks. Raises ``StorageError``."""
        self._database = database
        self._fleet = fleet
        self._server = server
        self._last = database.read_now(_last_command)
        self._seen_us = 0
        self._devices_at = 0.0
        fleet.tells = self._tells

    async def look(self) -> None:
        """Called after commits. Raises ``StorageError``."""
        registry = self._fleet.registry
        if time.monotonic() - self._devices_at > DEVICES_EVERY_S:
            self._devices_at = time.monotonic()
            for described in await self._database.read(self._devices):
                self._note(described)
        for order in await self._database.read(self._orders):
            self._last = order.id
            entry = registry.get(order.device)
            if entry is not None:
                entry.orders += 1
                if entry.streams:
                    entry.streams[-1].issued(order)

    async def died(self) -> None:
        """A server has died, and with it the streams of its devices. Raises ``StorageError``."""
        kept = await self._database.read(self._elsewhere)
        registry = self._fleet.registry
        for entry in registry.chosen(fleet_pb2.DeviceSelector()):
            key = (entry.described.device, entry.described.session)
            if entry.elsewhere and key not in kept:
                entry.elsewhere = False
                registry.touch(entry)

    def _note(self, described: fleet_pb2.Device) -> None:
        registry = self._fleet.registry
        online, described.online = described.online, False
        entry = registry.get(described.device)
        if entry is None:
            entry = registry.add(described)
        elif entry.streams or (entry.elsewhere, entry.described) == (online, described):
            return
        entry.elsewhere = online
        entry.described.CopyFrom(described)
        registry.touch(entry)

    # -- in the database -------------------------------------------------------------------------

    def _tells(self, connection: Connection, device: fleet_pb2.Device) -> bool:
        """Not of a device whose session has moved: its new server has said how it is."""
        owner = connection.execute(
            select(OWNERS.c.server)
            .join(SESSIONS, SESSIONS.c.id == OWNERS.c.session_id)
            .where(SESSIONS.c.device == device.device, SESSIONS.c.session == device.session)
        ).scalar()
        return owner in (None, self._server)

    def _elsewhere(self, connection: Connection) -> set[SessionKey]:
        rows = connection.execute(
            select(SESSIONS.c.device, SESSIONS.c.session)
            .join(OWNERS, OWNERS.c.session_id == SESSIONS.c.id)
            .join(SERVERS, SERVERS.c.id == OWNERS.c.server)
        )
        return {(row.device, row.session) for row in rows}

    def _orders(self, connection: Connection) -> list[Order]:
        return orders.listed(connection, None, pending_only=True, after=self._last, count=256)

    def _devices(self, connection: Connection) -> list[fleet_pb2.Device]:
        rows = connection.execute(
            select(DEVICES.c.described, DEVICES.c.last_seen_at)
            .where(DEVICES.c.last_seen_at > self._seen_us - OVERLAP_US)
            .order_by(DEVICES.c.last_seen_at)
        ).all()
        if rows:
            self._seen_us = rows[-1].last_seen_at
        return [fleet_pb2.Device.FromString(row.described) for row in rows]


def _last_command(connection: Connection) -> int:
    return connection.execute(select(func.max(COMMANDS.c.id))).scalar() or 0
