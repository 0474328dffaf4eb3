"""What those who watch a server see: metrics while devices stream, and a worker that died."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from numpy.typing import NDArray

from edge_client.session import EdgeSession
from shared.errors import FeatherwireError
from tests.support.metrics import scraped
from tests.support.servers import FixedTask, ServerThread

StartServer = Callable[..., ServerThread]
PATIENCE_S = 20


def test_streams_frames_and_refusals_are_counted(
    start_server: StartServer, image: NDArray[np.uint8], tiny_bundle: Any
) -> None:
    task = {"steady": lambda: FixedTask("steady")}
    server = start_server(task, metrics="127.0.0.1:0", max_streams=1)
    before = scraped(server)
    assert before("featherwire_streams") == 0
    with EdgeSession(server.address, bundle=tiny_bundle.origin) as session:
        for _ in range(3):
            assert session.send(image, tasks=["steady"]).analysis is not None
        during = scraped(server)
        assert during("featherwire_streams") == 1
        assert during("featherwire_credits_outstanding") >= 1
        with (
            pytest.raises(FeatherwireError, match="streams of this server are taken"),
            EdgeSession(server.address, bundle=tiny_bundle.origin) as second,
        ):
            second.send(image)
    value = scraped(server)
    assert value("featherwire_frames_acknowledged_total", kind="new") == 3
    # The second and the third show what the first did, and have its answer.
    assert value("featherwire_tasks_total", task="steady", outcome="ok") == 1
    assert value("featherwire_frames_unchanged_total") == 2
    assert value("featherwire_refused_total", reason="too_many_streams") >= 1
    assert value("featherwire_stage_seconds_count", stage="task.steady") == 1


def test_metrics_are_served_nowhere_unless_asked_for(start_server: StartServer) -> None:
    assert start_server().server.metrics_port is None


@pytest.fixture
def health(start_server: StartServer) -> Iterator[tuple[ServerThread, Callable[[], int]]]:
    server = start_server({"mortal": lambda: FixedTask("mortal")})
    with grpc.insecure_channel(server.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)

        def status() -> int:
            return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=10).status)

        yield server, status


def test_a_dead_worker_makes_the_server_unready(
    health: tuple[ServerThread, Callable[[], int]],
) -> None:
    server, status = health
    assert status() == health_pb2.HealthCheckResponse.SERVING
    stage = server.engine._task_stages["mortal"]
    # As when a library ends the thread: its function returns, and nobody is told.
    with stage._changed:
        stage._closing = True
        stage._changed.notify_all()
    until = time.monotonic() + PATIENCE_S
    while status() == health_pb2.HealthCheckResponse.SERVING:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert status() == health_pb2.HealthCheckResponse.NOT_SERVING
