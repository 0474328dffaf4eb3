"""Replicas and nodes of a Ray cluster die under load: no frame is lost, or has two results."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from structlog.testing import capture_logs

from cloud_server.consumers import ResultClient
from cloud_server.engine.fair import FIRST_LIMIT
from cloud_server.engine.ray import RayEngine
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.wire import PictureRequest
from tests.support import fragile
from tests.support.crashes import wait_until
from tests.support.metrics import scraped
from tests.support.raw_client import RawClient
from tests.support.servers import ServerThread, server_process, settings_of

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

StartServer = Callable[..., ServerThread]
Nodes = tuple[Any, list[Any]]
FRAGILE = {"fragile": fragile.open_fragile}
PATIENCE_S = 180
FRAMES = 12


def picture(encoder: EdgeEncoder, width: int) -> Bitstream:
    return encoder.encode(np.random.default_rng(width).integers(0, 255, (48, width, 3), np.uint8))


@contextmanager
def opened(bundle: Bundle, nodes: Nodes, data: Path, **settings: Any) -> Iterator[ServerThread]:
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
        # A replica may take longer to start, on a machine that has much else to do.
        "frame_deadline_s": PATIENCE_S,
    }
    server = ServerThread(settings_of(bundle, data, **(defaults | settings)), FRAGILE)
    try:
        yield server
    finally:
        server.stop()
        server.stop()
        server.join()


@pytest.fixture(scope="module")
def server(
    tiny_bundle: Bundle, ray_nodes: Nodes, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ServerThread]:
    """One for all that does not want another number of replicas."""
    with opened(tiny_bundle, ray_nodes, tmp_path_factory.mktemp("data")) as one:
        yield one


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
        listed = [one.sequence for one in client.records() if one.session == session]
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
    start_server: StartServer, server: ServerThread, tiny_bundle: Bundle
) -> None:
    from edge_client.session import EdgeSession

    found = []
    for one in (start_server(FRAGILE), server):
        with EdgeSession(one.address, device="camera", bundle=tiny_bundle.origin) as session:
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
    server: ServerThread, encoder: EdgeEncoder
) -> None:
    with capture_logs() as logs:
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


def runs_for_handles() -> set[str]:
    """What Serve's router runs in this process, over and over, for handles of deployments."""
    from ray.serve._private.router import SingletonThreadRouter

    loop = SingletonThreadRouter._asyncio_loop
    assert loop is not None, "no handle was ever used"
    tasks = asyncio.all_tasks(loop)
    whose = ("MetricsPusher", "RouterMetricsManager")
    return {one.get_name() for one in tasks if repr(one.get_coro()).split()[2].startswith(whose)}


def test_a_server_that_ends_leaves_nothing_running_and_spares_others_of_its_process(
    server: ServerThread,
    encoder: EdgeEncoder,
    tiny_bundle: Bundle,
    ray_nodes: Nodes,
    tmp_path: Path,
) -> None:
    results(send(server, encoder, "before", 32), 1)
    before = runs_for_handles()
    assert before, "the server that goes on runs nothing: the test shows nothing"
    with opened(tiny_bundle, ray_nodes, tmp_path) as other:  # it uses the same application
        results(send(other, encoder, "other", 32), 1)
        wait_until(lambda: runs_for_handles() > before, PATIENCE_S)
    assert runs_for_handles() == before
    results(send(server, encoder, "after", 32), 1)


def resubmitted(server: ServerThread) -> float:
    return scraped(server)("featherwire_frames_resubmitted_total")


def test_a_replica_that_is_killed_under_load_costs_no_frame(
    server: ServerThread, encoder: EdgeEncoder, gate: fragile.Gate
) -> None:
    pid = sorted(replicas(server, encoder))[0]
    before = resubmitted(server)
    gate.close()
    client = send(server, encoder, "killed", *[fragile.HELD] * FRAMES)
    wait_until(lambda: pid in gate.waiting(), PATIENCE_S)
    os.kill(pid, signal.SIGKILL)
    gate.open()
    found = results(client, FRAMES)
    client.close()
    assert all("fragile" in one.outcome.analysis.tasks for one in found.values())
    assert pid not in {replica_of(one) for one in found.values()}
    check_once(server, "killed", FRAMES)
    assert resubmitted(server) > before


def test_replicas_are_added_under_load_and_what_is_too_much_waits_in_the_server(
    tiny_bundle: Bundle, ray_nodes: Nodes, encoder: EdgeEncoder, gate: fragile.Gate, tmp_path: Path
) -> None:
    one_replica = {
        "ray_min_replicas": 1,
        "ray_target_ongoing": 1,
        "ray_max_ongoing": 2,
        "ray_max_in_flight": 6,
    }
    with opened(tiny_bundle, ray_nodes, tmp_path, **one_replica) as server:
        gate.close()
        client = send(server, encoder, "load", *[fragile.HELD] * 2 * FRAMES)
        wait_until(lambda: server.engine.queues["cluster"] == 6, PATIENCE_S)
        # The rest wait: some behind the cluster, and most for their turn, before the engine.
        inside = max(FIRST_LIMIT, 4 * server.engine.width)
        wait_until(lambda: server.engine.queues["workers"] == inside - 6, PATIENCE_S)
        # None is answered before there are two.
        wait_until(lambda: len(gate.waiting()) == 2, PATIENCE_S)
        gate.open()
        found = results(client, 2 * FRAMES)
        client.close()
        assert all("fragile" in one.outcome.analysis.tasks for one in found.values())
        assert len({replica_of(one) for one in found.values()}) == 2
        assert server.engine.queues == {"workers": 0, "cluster": 0, "suspects": 0}


def test_a_node_that_is_lost_under_load_costs_no_frame(
    server: ServerThread, ray_nodes: Nodes, encoder: EdgeEncoder, gate: fragile.Gate
) -> None:
    cluster, nodes = ray_nodes
    parents = {psutil.Process(pid).ppid(): pid for pid in replicas(server, encoder)}
    raylets = {one.all_processes["raylet"][0].process.pid: one for one in nodes}
    raylet = next(parent for parent in parents if parent in raylets)
    before = resubmitted(server)
    gate.close()
    client = send(server, encoder, "node", *[fragile.HELD] * FRAMES)
    wait_until(lambda: parents[raylet] in gate.waiting(), PATIENCE_S)
    cluster.remove_node(raylets[raylet], allow_graceful=False)
    wait_until(lambda: not psutil.pid_exists(parents[raylet]), PATIENCE_S)
    gate.open()
    found = results(client, FRAMES)
    client.close()
    assert all("fragile" in one.outcome.analysis.tasks for one in found.values())
    check_once(server, "node", FRAMES)
    assert resubmitted(server) > before
    assert isinstance(server.engine, RayEngine)
    assert server.engine.alive
