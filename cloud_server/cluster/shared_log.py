"""One server's part in a log that several share: started and stopped with the server."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from cloud_server.cluster.fleet import FleetTail
from cloud_server.cluster.membership import Attached, Lose, Membership, TakeUp
from cloud_server.cluster.tail import Tail
from cloud_server.fleet.fleet import Fleet
from cloud_server.results.log import ResultLog
from shared.errors import StorageError


class SharedLog:
    """Membership and tail of one server."""

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
        turn = log.database.turn
        assert turn is not None, "the database is shared"
        fleet_tail = FleetTail(log.database, fleet, turn.server)
        self._membership = Membership(
            log.database,
            turn.server,
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
        """Say that we live, and take up what nobody else has. Raises ``StorageError``."""
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
