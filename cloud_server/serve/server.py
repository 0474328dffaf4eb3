"""The gRPC server: what is registered, how it starts, how it stops.

serving ──SIGTERM, SIGINT──> draining ──all streams ended, or the deadline──> stopped
                                 └──────────── a second signal ────────────────┘

SIGHUP: certificates are taken anew. A terminal that has gone is as good as SIGTERM.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import grpc
import structlog
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from cloud_server.auth.access import Authenticator
from cloud_server.consumers.servicer import ResultServicer
from cloud_server.engine import Engine
from cloud_server.fleet.servicer import FleetServicer
from cloud_server.ingest.bundles import BundleServicer
from cloud_server.ingest.servicer import IngestServicer
from cloud_server.results.log import ResultLog
from cloud_server.results.retention import Retention
from cloud_server.results.shared_log import SharedLog
from cloud_server.serve.certificates import ServedCertificate, TlsFiles
from cloud_server.serve.health import Health
from cloud_server.telemetry.metrics import Metrics, MetricsServer
from shared.errors import FeatherwireError
from shared.listening import why_not
from shared.proto.featherwire.v1 import (
    bundles_pb2,
    bundles_pb2_grpc,
    fleet_pb2,
    fleet_pb2_grpc,
    ingest_pb2,
    ingest_pb2_grpc,
    results_pb2,
    results_pb2_grpc,
)
from shared.rpc.channel import server_options

INGEST_SERVICE = ingest_pb2.DESCRIPTOR.services_by_name["IngestService"].full_name
BUNDLE_SERVICE = bundles_pb2.DESCRIPTOR.services_by_name["BundleService"].full_name
RESULT_SERVICE = results_pb2.DESCRIPTOR.services_by_name["ResultService"].full_name
FLEET_SERVICE = fleet_pb2.DESCRIPTOR.services_by_name["FleetService"].full_name
SERVICES = (INGEST_SERVICE, BUNDLE_SERVICE, RESULT_SERVICE, FLEET_SERVICE)


class Server:
    """One listening server around an engine: ``start``, then ``wait`` until it has drained."""

    def __init__(
        self,
        engine: Engine,
        ingest: IngestServicer,
        bundles: BundleServicer,
        results: ResultServicer,
        fleet: FleetServicer,
        *,
        log: ResultLog,
        retention: Retention,
        shared_log: SharedLog | None = None,
        max_message_bytes: int,
        drain_deadline_s: float,
        tls: TlsFiles | None = None,
        authenticator: Authenticator | None = None,
        metrics: Metrics | None = None,
        metrics_listen: str | None = None,
    ) -> None:
        """authenticator: None lets everybody call everything. metrics_listen: HOST:PORT where
        ``metrics`` are served; None: nowhere."""
        self._metrics = metrics or Metrics()
        self._metrics_listen = metrics_listen
        self._metrics_server: MetricsServer | None = None
        self._engine = engine
        self._ingest = ingest
        self._results = results
        self._fleet = fleet
        self._log = log
        self.retention = retention
        self._shared_log = shared_log
        self._forgetting: asyncio.Task[None] | None = None
        self._drain_deadline_s = drain_deadline_s
        self._health = Health(engine, log.database, SERVICES, self._metrics)
        self._authenticator = authenticator
        self._server = grpc.aio.server(
            interceptors=() if authenticator is None else (authenticator,),
            options=server_options(max_message_bytes),
        )
        self._tls = tls
        self._certificate: ServedCertificate | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._reloading: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self.workers_stopped = True
        """False after ``wait`` when a worker is still busy: the process must not finalise then."""
        ingest_pb2_grpc.add_IngestServiceServicer_to_server(ingest, self._server)
        bundles_pb2_grpc.add_BundleServiceServicer_to_server(bundles, self._server)
        results_pb2_grpc.add_ResultServiceServicer_to_server(results, self._server)
        fleet_pb2_grpc.add_FleetServiceServicer_to_server(fleet, self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health.servicer, self._server)
        reflection.enable_server_reflection(
            (*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME),
            self._server,
        )

    async def start(self, listen: str) -> str:
        """Listen on ``HOST:PORT``; returns the address with the port that was really taken.

        Frames that a server before left without a result count as in flight from here on. Raises
        ``FeatherwireError("cannot_listen")`` and ``StorageError``; everything is closed then.
        """
        try:
            port = self._listen(listen)
            if self._metrics_listen is not None:
                self._metrics_server = MetricsServer(
                    self._metrics, lambda: self._engine.queues, self._metrics_listen
                )
            if self._shared_log is None:
                await self._ingest.recover()
            else:
                await self._shared_log.start()
        except BaseException:
            await self._close()
            raise
        self._forgetting = asyncio.create_task(self.retention.run())
        await self._server.start()
        await self._health.start()
        if self._certificate is not None:
            self._renewing = asyncio.create_task(self._certificate.watch())
        return f"{listen.rpartition(':')[0]}:{port}"

    def _listen(self, listen: str) -> int:
        try:
            if self._tls is None:
                return self._server.add_insecure_port(listen)
            self._certificate = ServedCertificate(self._tls, self._metrics)
            return self._server.add_secure_port(listen, self._certificate.credentials())
        except (RuntimeError, OSError, ValueError) as error:
            raise FeatherwireError(
                "cannot_listen", f"cannot listen on {listen}: {why_not(listen, error)}"
            ) from None

    @property
    def log_place(self) -> str:
        """Where the log of frames and results is, without a password."""
        return self._log.database.place

    @property
    def metrics_port(self) -> int | None:
        """Where metrics are served; None where they are not."""
        return None if self._metrics_server is None else self._metrics_server.port

    def stop(self) -> None:
        """Begin to drain; a second call stops at once."""
        (self._force if self._stop.is_set() else self._stop).set()

    def stop_on_signals(self) -> None:
        """Let SIGTERM and SIGINT call ``stop``."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)

    def reload_on_hangup(self, reload: Callable[[], None]) -> None:
        """Let SIGHUP renew the certificate and call ``reload``, in a thread; or ``stop``, when it
        came because the terminal of this process has gone."""
        loop = asyncio.get_running_loop()
        on_terminal = has_terminal()

        async def renew() -> None:
            if self._certificate is not None:
                await asyncio.to_thread(self._certificate.refresh, anyway=True)
            await asyncio.to_thread(reload)

        def hang_up() -> None:
            if on_terminal and not has_terminal():
                self.stop()
            else:
                self._reloading = loop.create_task(renew())

        loop.add_signal_handler(signal.SIGHUP, hang_up)

    async def wait(self) -> bool:
        """Serve until ``stop``, then drain. True when every stream came to its end."""
        await self._stop.wait()
        log = structlog.get_logger()
        log.info("draining", streams=self._ingest.open_streams, deadline_s=self._drain_deadline_s)
        await self._health.drain()
        self._ingest.drain(self._drain_deadline_s)
        self._results.drain()
        self._fleet.drain()
        stopping = asyncio.create_task(self._server.stop(self._drain_deadline_s))
        forced = asyncio.create_task(self._force.wait())
        await asyncio.wait({stopping, forced}, return_when=asyncio.FIRST_COMPLETED)
        left = self._ingest.open_streams + self._ingest.cut_streams
        drained = not self._force.is_set() and left == 0
        forced.cancel()
        if self._force.is_set():
            await self._server.stop(0)
        await stopping
        await self._close()
        log.info("stopped", drained=drained, workers_stopped=self.workers_stopped)
        return drained

    async def _close(self) -> None:
        """Stop the workers, then the log: in this order, or frames that were cut get errors."""
        for background in (self._forgetting, self._renewing):
            if background is not None:
                background.cancel()
        await self._health.close()
        if self._metrics_server is not None:
            await asyncio.to_thread(self._metrics_server.close)
        if self._authenticator is not None:
            await self._authenticator.close()
        await self._ingest.close()
        self.workers_stopped = await self._engine.close()
        await self._fleet.close()
        if self._shared_log is not None:
            await self._shared_log.close()
        await asyncio.to_thread(self._log.database.close)


def has_terminal() -> bool:
    """Whether this process has a terminal that is still there."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True
