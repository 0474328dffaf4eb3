"""Replicas and nodes of a Ray cluster die under load: no frame is lost, or has two results."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import psutil
import pytest
from structlog.testing import capture_logs

from cloud_server.consumers import ResultClient
from cloud_server.engine.ray import RayEngine
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.wire import PictureRequest
from tests.support import fragile
from tests.support.metrics import scraped
from tests.support.raw_client import RawClient
from tests.support.servers import ServerThread, server_process

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

StartServer = Callable[..., ServerThread]
Nodes = tuple[Any, list[Any]]
FRAGILE = {"fragile": fragile.open_fragile}
PATIENCE_S = 180
FRAMES = 12


def picture(encoder: EdgeEncoder, width: int) -> Bitstream:
    return encoder.encode(np.random.default_rng(width).integers(0, 255, (48, width, 3), np.uint8))


def start(start_server: StartServer, nodes: Nodes, **settings: Any) -> ServerThread:
    """A server with two replicas, unless it is told otherwise."""
    cluster, _ = nodes
    defaults = {
        "engine": "ray",
        "ray_address": cluster.address,
        "ray_min_replicas": 2,
        "ray_max_replicas": 2,
        "ray_num_cpus": 0.5,
        "credits": 2 * FRAMES,
        "metrics": "127.0.0.1:0",
    }
    return start_server(FRAGILE, **(defaults | settings))


def send(server: ServerThread, encoder: EdgeEncoder, session: str, *widths: int) -> RawClient:
    client = RawClient(server.address)
    client.hello(device="camera", session=session)
    for sequence, width in enumerate(widths, 1):
        client.frame(sequence, picture(encoder, width), tasks=("fragile",))
    client.wait_for("ack", len(widths), PATIENCE_S)
    return client


def results(client: RawClient, count: int) -> dict[int, Any]:
    found = {one.sequence: one for one in client.wait_for("result", count, PATIENCE_S)}
    assert sorted(found) == list(range(1, count + 1))
    return found


def replica_of(result: Any) -> int:
    """Process id of the replica that ran the task."""
    return int(result.outcome.analysis.tasks["fragile"].models[0].version)


def check_once(server: ServerThread, session: str, count: int) -> None:
    """The log has one result of every frame."""
    with ResultClient(server.address) as client:
        listed = [one.sequence for one in client.list() if one.session == session]
    assert sorted(listed) == list(range(1, count + 1))


def replicas(server: ServerThread, encoder: EdgeEncoder) -> set[int]:
    """Process ids of both."""
    found: set[int] = set()
    until = time.monotonic() + PATIENCE_S
    while len(found) < 2:
        assert time.monotonic() < until
        session = f"who-{time.monotonic_ns()}"
        client = send(server, encoder, session, *[32] * 8)
        found |= {replica_of(one) for one in results(client, 8).values()}
        client.close()
    return found


def test_frames_and_pictures_are_those_of_threads(
    start_server: StartServer, ray_nodes: Nodes, encoder: EdgeEncoder, tiny_bundle: Bundle
) -> None:
    from edge_client.session import EdgeSession

    found = []
    for server in (start_server(FRAGILE), start(start_server, ray_nodes)):
        with EdgeSession(server.address, device="camera", bundle=tiny_bundle.origin) as session:
            result = session.send(
                np.full((48, 64, 3), 90, np.uint8), tasks=["fragile", "smell"],
                picture=PictureRequest(),
            )  # fmt: skip
        assert result.analysis is not None
        assert result.picture is not None
        model = result.analysis.tasks["fragile"].model[0]
        assert (model.version == str(os.getpid())) == (not found)
        found.append(
            (
                result.picture.data,
                result.analysis.payload_bytes,
                {name: error.reason for name, error in result.task_errors.items()},
            )
        )
    assert found[0] == found[1]


def test_a_server_process_joins_the_cluster_and_ends_in_good_order(
    ray_nodes: Nodes, encoder: EdgeEncoder, tiny_bundle: Bundle
) -> None:
    cluster, _ = ray_nodes
    variables = {
        "FEATHERWIRE_ENGINE": "ray",
        "FEATHERWIRE_RAY_ADDRESS": cluster.address,
        "FEATHERWIRE_RAY_NUM_CPUS": "0.5",
    }
    options = ("--bundle", tiny_bundle.origin, "--bundles", "none", "--tasks", "none")
    with server_process(*options, environment=variables) as (process, ready):
        client = RawClient(ready["listening"])
        client.hello(device="camera", session="process")
        client.frame(1, picture(encoder, 32), picture=PictureRequest())
        (result,) = client.wait_for("result", 1, PATIENCE_S)
        assert result.outcome.picture.data
        client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def test_a_frame_that_kills_replicas_is_answered_and_the_others_go_on(
    start_server: StartServer, ray_nodes: Nodes, encoder: EdgeEncoder
) -> None:
    with capture_logs() as logs:
        server = start(start_server, ray_nodes)
        widths = [fragile.SEGFAULTS if number == 5 else 32 for number in range(1, FRAMES + 1)]
        client = send(server, encoder, "poison", *widths)
        found = results(client, FRAMES)
        client.close()
    for sequence, result in found.items():
        if sequence == 5:
            assert result.outcome.error.reason == "worker_crashed"
        else:
            assert "fragile" in result.outcome.analysis.tasks
    check_once(server, "poison", FRAMES)
    deaths = [one for one in logs if one["event"] == "replica_died"]
    assert {one["cause"] for one in deaths} == {"crash"}
    assert len([one for one in deaths if one["alone"]]) == 2


def test_a_replica_that_is_killed_under_load_costs_no_frame(
    start_server: StartServer, ray_nodes: Nodes, encoder: EdgeEncoder
) -> None:
    server = start(start_server, ray_nodes)
    pid = sorted(replicas(server, encoder))[0]
    client = send(server, encoder, "killed", *[fragile.SLOW] * FRAMES)
    os.kill(pid, signal.SIGKILL)
    found = results(client, FRAMES)
    client.close()
    assert all("fragile" in one.outcome.analysis.tasks for one in found.values())
    assert pid not in {replica_of(one) for one in found.values() if one.sequence > FRAMES // 2}
    check_once(server, "killed", FRAMES)
    assert scraped(server)("featherwire_frames_resubmitted_total") >= 1


def test_replicas_are_added_under_load_and_what_is_too_much_waits_in_the_server(
    start_server: StartServer, ray_nodes: Nodes, encoder: EdgeEncoder
) -> None:
    server = start(
        start_server,
        ray_nodes,
        ray_min_replicas=1,
        ray_target_ongoing=1,
        ray_max_ongoing=2,
        ray_max_in_flight=6,
    )
    client = send(server, encoder, "load", *[fragile.SLOW] * 2 * FRAMES)
    queues = server.engine.queues
    assert queues["cluster"] == 6
    assert 0 < queues["workers"] <= 2 * FRAMES - 6
    found = results(client, 2 * FRAMES)
    client.close()
    assert all("fragile" in one.outcome.analysis.tasks for one in found.values())
    assert len({replica_of(one) for one in found.values()}) == 2
    assert server.engine.queues == {"workers": 0, "cluster": 0, "suspects": 0}


def test_a_node_that_is_lost_under_load_costs_no_frame(
    start_server: StartServer, ray_nodes: Nodes, encoder: EdgeEncoder
) -> None:
    cluster, nodes = ray_nodes
    server = start(start_server, ray_nodes)
    parents = {psutil.Process(pid).ppid(): pid for pid in replicas(server, encoder)}
    raylets = {one.all_processes["raylet"][0].process.pid: one for one in nodes}
    node = next(raylets[parent] for parent in parents if parent in raylets)
    client = send(server, encoder, "node", *[fragile.SLOW] * FRAMES)
    cluster.remove_node(node, allow_graceful=False)
    found = results(client, FRAMES)
    client.close()
    assert all("fragile" in one.outcome.analysis.tasks for one in found.values())
    check_once(server, "node", FRAMES)
    assert scraped(server)("featherwire_frames_resubmitted_total") >= 1
    assert isinstance(server.engine, RayEngine)
    assert server.engine.alive
