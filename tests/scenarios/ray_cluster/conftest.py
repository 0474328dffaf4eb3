"""A real Ray cluster in processes of this machine: a head without work, and two nodes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest

from tests.support import fragile
from tests.support.servers import ROOT

STORE_BYTES = 80 * 2**20
VARIABLES = {
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",
    # Ray's workers are nicer than others by default, and wait for ever beside other tests.
    "RAY_worker_niceness": "0",
}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Iterator[fragile.Gate]:
    """Of all replicas: the cluster's processes are given its folder."""
    folder = tmp_path_factory.mktemp("gate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(fragile.GATE, str(folder))
        yield fragile.Gate(folder)


@pytest.fixture(scope="module")
def ray_nodes(gate: fragile.Gate) -> Iterator[tuple[Any, list[Any]]]:
    """The cluster, and its nodes for replicas: two processors each, as far as Ray knows."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in VARIABLES.items():
            patch.setenv(name, value)
        pytest.importorskip("ray", reason="Ray is an extra: pip install 'featherwire[ray]'")
        import ray
        from ray.cluster_utils import Cluster

        from cloud_server.engine.ray import application

        cluster = Cluster(
            initialize_head=True,
            head_node_args={
                "num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE_BYTES,
            },
        )  # fmt: skip
        try:
            nodes = [
                cluster.add_node(num_cpus=2, object_store_memory=STORE_BYTES) for _ in range(2)
            ]
            application.connect(cluster.address)
            yield cluster, nodes
        finally:
            end_router()
            ray.shutdown()
            # It refuses while it believes this process to be connected still, and disconnects it.
            with suppress(ValueError):
                cluster.shutdown()
            cluster.shutdown()
            children = psutil.Process(os.getpid()).children(recursive=True)
            left = [one for one in children if "ray" in _line(one)]
            _, alive = psutil.wait_procs(left, timeout=10)
            for one in alive:
                one.kill()
        assert threads_of_ray() == []


def end_router() -> None:
    """End the thread that Serve keeps for the handles of a process until the process ends, though
    what it does needs the cluster."""
    from ray.serve._private.router import SingletonThreadRouter

    threads, loop = threads_of_ray(), SingletonThreadRouter._asyncio_loop
    if loop is None:
        return
    loop.call_soon_threadsafe(loop.stop)
    for one in threads:
        one.join(10)
    SingletonThreadRouter._asyncio_loop = SingletonThreadRouter._event_loop_monitor = None


def threads_of_ray() -> list[threading.Thread]:
    """Threads of this process that run Ray's Python."""
    return [
        one
        for one in threading.enumerate()
        if getattr(getattr(one, "_target", None), "__module__", "").startswith("ray.")
    ]


def _line(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""
