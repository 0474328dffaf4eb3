"""kill -9 of workers at random moments, under load: nothing lost, nothing doubled, order kept."""

from __future__ import annotations

import random
import time

import psutil
import pytest

from shared.bundle import Bundle
from tests.support.crashes import (
    TIMEOUT_S,
    Servers,
    Watcher,
    check_exactly_once,
    check_values,
    rounds,
    wait_for_acks,
    wait_until,
)
from tests.support.device import Device
from tests.support.predicting import coded, moving

MORE_ROUNDS = 10
GROUP = 30
"""Frames from one key frame to the next."""


@pytest.mark.timeout(TIMEOUT_S)
def test_no_frame_is_lost_or_doubled_however_often_a_worker_is_killed(
    servers: Servers, tiny_bundle: Bundle
) -> None:
    """Devices send groups of pictures."""
    rng = random.Random("workers")
    servers.start("--workers", "2")
    group = coded(tiny_bundle, moving(GROUP))
    devices = [Device(name, lambda: servers.address, *group) for name in ("left", "right")]
    watcher = Watcher(servers)
    for thread in (*devices, watcher):
        thread.start()
    killed = 0
    for number in rounds():
        wait_until(lambda: bool(servers.workers()))
        time.sleep(rng.uniform(0.02, 0.5))
        # Now and then one that is still loading.
        servers.kill_worker(rng, ready=number % 3 != 2)
        killed += 1
    # Some had frames, or this shows less than it says.
    for _ in range(MORE_ROUNDS):
        if any(one["frames"] for one in servers.events("worker_died")):
            break
        wait_for_acks(devices, 10)
        servers.kill_worker(rng)
        killed += 1
    wait_until(lambda: all(device.sent > 30 for device in devices))
    for device in devices:
        device.finish(180)
    check_exactly_once(servers.address, devices, watcher)
    check_values(servers.address, tiny_bundle, devices)
    assert all(device.connections == 1 for device in devices), "devices do not notice"
    watcher.stop.set()
    assert servers.stop() == 0
    died = servers.events("worker_died")
    assert len(died) + len(servers.events("worker_not_started")) == killed
    assert any(one["frames"] for one in died)


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
