"""Metrics over HTTP, on a thread of their own: they answer also while the event loop is busy."""

from __future__ import annotations

import threading
from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import start_http_server

from cloud_server.telemetry.metrics import Metrics
from shared.errors import FeatherwireError


class MetricsServer:
    """Serves ``/metrics`` until it is closed."""

    def __init__(self, metrics: Metrics, queues: Callable[[], dict[str, int]], listen: str) -> None:
        """queues: items by stage, asked at every scrape. listen: HOST:PORT, port 0 takes a free
        one. Raises FeatherwireError ``bind_failed``.
        """
        host, _, port = listen.rpartition(":")
        for stage in queues():
            metrics.queued.labels(stage).set_function(lambda stage=stage: float(queues()[stage]))
        try:
            served = start_http_server(int(port), addr=host.strip("[]"), registry=metrics.registry)
        except OSError as error:
            raise FeatherwireError(
                "bind_failed", f"cannot serve metrics on {listen}: {error.strerror or error}"
            ) from None
        self._server: WSGIServer = served[0]
        self._thread: threading.Thread = served[1]

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_port)

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
