"""What gRPC's health service says: whether the server is ready, and whether it is alive.

Ready, the service ``""`` and each service's own name: it takes frames and can keep and analyse
them; a load balancer asks this. Alive, ``featherwire.live``: starting the process again would not
help; who keeps the process running asks this. A server whose database is away is alive, and not
ready.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from grpc_health.v1 import health, health_pb2

from cloud_server.database import Database
from cloud_server.engine import Engine
from cloud_server.telemetry.metrics import Metrics
from shared.errors import StorageError

WATCH_S = 0.5
"""Between looks."""

DATABASE_GRACE_S = 10.0
"""For so long nothing can be written before the server is not ready: frames of devices wait
meanwhile, in the server or with the devices."""

PROBE_AGAIN_S = 1.0
"""Between tries of a database that is away."""

PROBE_IDLE_S = 30.0
"""A database to which nothing was written for so long is asked whether it can be."""

LIVE = "featherwire.live"
"""The service that is not serving when the process had better be started again."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Health:
    """Watches engine and database, and says how they are. ``servicer`` is gRPC's."""

    def __init__(
        self, engine: Engine, database: Database, services: Sequence[str], metrics: Metrics
    ) -> None:
        self.servicer = health.aio.HealthServicer()
        self._engine = engine
        self._database = database
        self._services = services
        self._probe: asyncio.Task[None] | None = None
        self._probed_at = 0.0
        self._watching: asyncio.Task[None] | None = None
        self._alive = self._writable = True
        metrics.database_up.set_function(lambda: float(self._writable))

    async def start(self) -> None:
        """Say that the server serves, and what it does from now on."""
        await self._say()
        self._watching = asyncio.create_task(self._watch())

    async def drain(self) -> None:
        """Say that it serves no longer; this is the last word of it."""
        await self.servicer.enter_graceful_shutdown()

    async def close(self) -> None:
        """Look no more."""
        for task in (self._watching, self._probe):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            self._probe_when_due()
            alive = self._engine.alive
            writable = self._database.away_s < DATABASE_GRACE_S
            if (alive, writable) == (self._alive, self._writable):
                continue
            log = structlog.get_logger()
            if alive != self._alive:
                stages = self._engine.queues
                if alive:
                    log.info("workers_back", stages=stages)
                else:
                    log.error("workers_dead", stages=stages)
            if writable != self._writable:
                if writable:
                    log.info("database_back", place=self._database.place)
                else:
                    log.error("database_away", place=self._database.place)
            self._alive, self._writable = alive, writable
            await self._say()

    async def _say(self) -> None:
        ready = _SERVING if self._alive and self._writable else _NOT_SERVING
        for service in ("", *self._services):
            await self.servicer.set(service, ready)
        await self.servicer.set(LIVE, _SERVING if self._alive else _NOT_SERVING)

    def _probe_when_due(self) -> None:
        """Try to write where nothing else does, or nothing else could."""
        if self._probe is not None and not self._probe.done():
            return
        now = asyncio.get_running_loop().time()
        failing = self._database.failing
        every_s = PROBE_AGAIN_S if failing else PROBE_IDLE_S
        quiet_s = now - self._probed_at if failing else self._database.idle_s
        if quiet_s >= every_s:
            self._probed_at = now
            self._probe = asyncio.create_task(self._try())

    async def _try(self) -> None:
        try:
            await self._database.probe()
        except StorageError as error:
            structlog.get_logger().warning("database_unavailable", **error.to_dict())
