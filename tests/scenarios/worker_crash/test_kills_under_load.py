"""kill -9 of workers at random moments, under load: nothing lost, nothing doubled, order kept."""

from __future__ import annotations

import random
import time

import psutil
import pytest

from edge_client.encoder import EdgeEncoder
from tests.support.crashes import ROUNDS, Servers, Watcher, check_exactly_once, wait_until
from tests.support.device import Device


@pytest.mark.timeout(240 + 60 * ROUNDS)
def test_no_frame_is_lost_or_doubled_however_often_a_worker_is_killed(
    servers: Servers, encoder: EdgeEncoder, image: object
) -> None:
    rng = random.Random("workers")
    servers.start("--workers", "2")
    bitstream = encoder.encode(image)  # type: ignore[arg-type]
    devices = [Device(name, lambda: servers.address, bitstream) for name in ("left", "right")]
    watcher = Watcher(servers)
    for thread in (*devices, watcher):
        thread.start()
    for number in range(ROUNDS):
        wait_until(lambda: bool(servers.workers()))
        time.sleep(rng.uniform(0.02, 1.5))
        # Now and then one that is still loading.
        servers.kill_worker(rng, ready=number % 5 != 4)
    for device in devices:
        device.finish(180)
    check_exactly_once(servers.address, devices, watcher)
    for device in devices:
        assert device.connections == 1, "devices do not notice"
        assert device.sent > 3 * ROUNDS
    watcher.stop.set()
    assert servers.stop() == 0
    died = servers.events("worker_died")
    assert len(died) + len(servers.events("worker_not_started")) == ROUNDS
    assert any(one["frames"] for one in died), "some had frames, or this shows less than it says"


def test_no_worker_outlives_a_server_that_is_killed(servers: Servers) -> None:
    servers.start("--workers", "2")
    workers = servers.workers()
    assert len(workers) == 2
    servers.kill()
    _, alive = psutil.wait_procs(workers, timeout=30)
    assert alive == []


def test_a_service_manager_that_tells_every_process_to_end_gets_an_orderly_one(
    servers: Servers,
) -> None:
    servers.start("--workers", "2")
    workers = servers.workers()
    for worker in workers:
        worker.terminate()
    time.sleep(0.5)
    assert all(worker.is_running() for worker in workers), "it is the server that answers"
    assert servers.stop() == 0
    assert psutil.wait_procs(workers, timeout=30)[1] == []
