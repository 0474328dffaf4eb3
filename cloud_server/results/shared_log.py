"""One server's part in a log that several share, and what it reads of the others' commits."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import structlog
from sqlalchemy import Connection, func, select, text

from cloud_server.database import Database
from cloud_server.database.locks import CHANNEL
from cloud_server.database.schema import COMMANDS, DEVICES, OWNERS, SERVERS, SESSIONS
from cloud_server.fleet import commands
from cloud_server.fleet.commands import IssuedCommand
from cloud_server.fleet.fleet import Fleet
from cloud_server.results.log import ResultLog
from cloud_server.results.membership import Attached, Lose, Membership, TakeUp
from cloud_server.results.records import SessionKey
from shared.errors import StorageError
from shared.proto.featherwire.v1 import fleet_pb2

POLL_S = 0.5
"""A server that was not woken, or cannot be (PgBouncer), looks so often."""

GATHER_S = 0.02
"""Commits that come so close together are looked at once."""

AGAIN_S = 5.0
_LISTEN_S = 1.0

Look = Callable[[], Awaitable[None]]

DEVICES_EVERY_S = 1.0
OVERLAP_US = 10_000_000
"""Servers' clocks differ: devices seen so long before the newest are read again."""


class SharedLog:
    """Membership of one server, and what it reads of the others; started and stopped with it."""

    def __init__(
        self,
        log: ResultLog,
        fleet: Fleet,
        *,
        attached: Attached,
        lose: Lose,
        take_up: TakeUp,
    ) -> None:
        """See ``Membership``. Blocks. Raises ``StorageError``."""
        commit_lock = log.database.commit_lock
        assert commit_lock is not None, "the database is shared"
        fleet_tail = FleetTail(log.database, fleet, commit_lock.server)
        self._membership = Membership(
            log.database,
            commit_lock.server,
            attached=attached,
            lose=lose,
            take_up=take_up,
            died=fleet_tail.died,
        )
        self._tail = Tail(log.database, [log.catch_up, fleet_tail.look])
        log.recorded = lambda _records: self._tail.wake()
        self._running: list[asyncio.Task[None]] = []

    @property
    def leads(self) -> bool:
        """Whether it is this server that forgets what is too old."""
        return self._membership.leads

    async def start(self) -> None:
        """Send the first heartbeat, and take up what nobody else has. Raises ``StorageError``."""
        await self._membership.beat()
        self._running = [
            asyncio.create_task(self._membership.run()),
            asyncio.create_task(self._tail.run()),
        ]

    async def close(self) -> None:
        """Leave what is unfinished to the others."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        with suppress(StorageError):  # the others find out in a while
            await self._membership.leave()


class Tail:
    """Calls ``looks`` after every commit of any server. Used on one event loop."""

    def __init__(self, database: Database, looks: Sequence[Look]) -> None:
        self._database = database
        self._looks = looks
        self._woken = asyncio.Event()
        self._closed = threading.Event()
        self._loop: asyncio.AbstractEventLoop

    def wake(self) -> None:
        """Something was committed here."""
        self._woken.set()

    async def run(self) -> None:
        """Until cancelled."""
        self._loop = asyncio.get_running_loop()
        listener = threading.Thread(target=self._listen, name="featherwire-listen", daemon=True)
        listener.start()
        try:
            while True:
                try:
                    async with asyncio.timeout(POLL_S):
                        await self._woken.wait()
                except TimeoutError:
                    pass
                await asyncio.sleep(GATHER_S)
                self._woken.clear()
                for look in self._looks:
                    try:
                        await look()
                    except StorageError as error:
                        structlog.get_logger().warning("not_followed", **error.to_dict())
        finally:
            self._closed.set()

    def _listen(self) -> None:
        """In a thread of its own: psycopg waits for notifications, or for a second."""
        while not self._closed.is_set():
            try:
                with self._database.engine.connect() as connection:
                    connection = connection.execution_options(isolation_level="AUTOCOMMIT")
                    connection.execute(text(f"LISTEN {CHANNEL}"))
                    driver = connection.connection.driver_connection
                    assert driver is not None
                    while not self._closed.is_set():
                        for _ in driver.notifies(timeout=_LISTEN_S, stop_after=1):
                            self._loop.call_soon_threadsafe(self.wake)
                    connection.execute(text(f"UNLISTEN {CHANNEL}"))
            except Exception as error:  # noqa: BLE001  # SQLAlchemy's, psycopg's, a closed loop's
                if not self._closed.is_set():
                    structlog.get_logger().warning("not_listening", error=str(error)[:300])
                    self._closed.wait(AGAIN_S)


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
        fleet.owns = self._owns

    async def look(self) -> None:
        """Called after commits. Raises ``StorageError``."""
        registry = self._fleet.registry
        if time.monotonic() - self._devices_at > DEVICES_EVERY_S:
            self._devices_at = time.monotonic()
            for device, described in await self._database.read(self._devices):
                if described is None:
                    self._forgotten(device)
                else:
                    self._note(described)
        for issued in await self._database.read(self._commands):
            self._last = issued.id
            entry = registry.get(issued.device)
            if entry is not None:
                entry.issued += 1
                if entry.streams:
                    entry.streams[-1](issued)

    async def died(self) -> None:
        """A server has died, and with it the streams of its devices. Raises ``StorageError``."""
        kept = await self._database.read(self._elsewhere)
        registry = self._fleet.registry
        for entry in registry.chosen(fleet_pb2.DeviceSelector()):
            key = (entry.described.device, entry.described.session)
            if entry.elsewhere and key not in kept:
                entry.elsewhere = False
                registry.touch(entry)

    def _forgotten(self, device: str) -> None:
        entry = self._fleet.registry.get(device)
        if entry is not None and not entry.streams:
            self._fleet.registry.remove(device)

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

    def _owns(self, connection: Connection, device: fleet_pb2.Device) -> bool:
        """False for a device whose session has moved: its new server keeps how it is."""
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

    def _commands(self, connection: Connection) -> list[IssuedCommand]:
        return commands.listed(connection, None, pending_only=True, after=self._last, count=256)

    def _devices(self, connection: Connection) -> list[tuple[str, fleet_pb2.Device | None]]:
        """Those that were seen since; None for one that was forgotten."""
        rows = connection.execute(
            select(DEVICES.c.device, DEVICES.c.described, DEVICES.c.last_seen_at)
            .where(DEVICES.c.last_seen_at > self._seen_us - OVERLAP_US)
            .order_by(DEVICES.c.last_seen_at)
        ).all()
        if rows:
            self._seen_us = rows[-1].last_seen_at
        return [
            (row.device, fleet_pb2.Device.FromString(row.described) if row.described else None)
            for row in rows
        ]


def _last_command(connection: Connection) -> int:
    return connection.execute(select(func.max(COMMANDS.c.id))).scalar() or 0
