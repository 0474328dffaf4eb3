"""kill -9 of the server at random moments, under load: nothing lost, nothing doubled, order kept.

``tests/support/crashes.py`` says how often.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from cloud_server.consumers import ResultClient
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.proto.featherwire.v1 import results_pb2
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
from tests.support.raw_client import RawClient

MORE_ROUNDS = 10
GROUP = 30
"""Frames from one key frame to the next."""


@pytest.fixture
def bitstream(encoder: EdgeEncoder, image: object) -> Bitstream:
    return encoder.encode(image)  # type: ignore[arg-type]


@pytest.mark.timeout(TIMEOUT_S)
def test_no_frame_is_lost_or_doubled_however_often_the_server_is_killed(
    servers: Servers, tiny_bundle: Bundle
) -> None:
    """Devices send groups of pictures."""
    rng = random.Random("crash")
    servers.start()
    group = coded(tiny_bundle, moving(GROUP))
    devices = [Device(name, lambda: servers.address, *group) for name in ("left", "right")]
    watcher = Watcher(servers)
    for thread in (*devices, watcher):
        thread.start()
    for number in rounds():
        if number % 3:  # else it may be killed before anybody has come back
            wait_for_acks(devices)
        time.sleep(rng.uniform(0.02, 0.5))
        servers.kill()
        servers.start()
    # Killed with frames in hand, and frames sent again, or the test shows less than it says.
    for _ in range(MORE_ROUNDS):
        if servers.events("recovering"):
            break
        wait_for_acks(devices, 10)
        servers.kill()
        servers.start()
    wait_until(lambda: all(device.duplicates > 0 and device.sent > 30 for device in devices))
    for device in devices:
        device.finish(180)

    check_exactly_once(servers.address, devices, watcher)
    check_values(servers.address, tiny_bundle, devices)
    assert all(device.connections > 2 for device in devices)
    watcher.stop.set()
    assert servers.events("recovering")
    assert servers.stop() == 0


SLOW_SERVER = """
import time
import cloud_server.engine.spec as spec
from cloud_server.cli import main
from shared.results import TaskResult

class Slow:
    models = []
    def run(self, images):
        time.sleep({delay_s})
        return [TaskResult(task="detection", model=[], detections=[]) for _ in images]

spec.open_task = lambda *arguments, **options: Slow()
main()
"""


def test_what_was_acknowledged_gets_its_result_after_a_restart_without_its_device(
    servers: Servers, bitstream: Bitstream
) -> None:
    servers.start("--tasks", "detection", code=SLOW_SERVER.format(delay_s=60))
    client = RawClient(servers.address)
    client.hello(device="camera", session="gone")
    for sequence in range(1, 9):
        client.frame(sequence, bitstream, tasks=("detection",))
    client.wait_for("ack", 8)
    servers.kill()
    client.close()
    assert client.all("result") == []

    # It is killed once more while it has them again.
    servers.start("--tasks", "detection", code=SLOW_SERVER.format(delay_s=60))
    time.sleep(0.3)
    servers.kill()
    servers.start("--tasks", "detection", code=SLOW_SERVER.format(delay_s=0.01))
    with ResultClient(servers.address) as consumer:
        watched = records_of(consumer)
        assert sorted(next(watched).sequence for _ in range(8)) == list(range(1, 9))
        assert len(list(consumer.records())) == 8
        assert all("detection" in one.outcome.analysis.tasks for one in consumer.records())
    # And the device gets them when it returns.
    client = RawClient(servers.address)
    welcome = client.hello(device="camera", session="gone")
    assert (welcome.resume_after_sequence, welcome.credits) == (8, 8)
    results = client.wait_for("result", 8)
    assert [one.result_id for one in results] == list(range(1, 9))
    client.close()


def test_a_stopped_server_leaves_what_it_cut_to_the_next(
    servers: Servers, bitstream: Bitstream
) -> None:
    slow = ("--tasks", "detection", "--drain-deadline", "0.3")
    servers.start(*slow, code=SLOW_SERVER.format(delay_s=3))
    client = RawClient(servers.address)
    client.hello(device="camera", session="drained")
    client.frame(1, bitstream, tasks=("detection",))
    client.wait_for("ack")
    assert servers.stop() == 1  # a frame was cut
    client.close()
    servers.start(*slow, code=SLOW_SERVER.format(delay_s=0.01))
    with ResultClient(servers.address) as consumer:
        record = next(records_of(consumer))
    assert record.sequence == 1
    assert "detection" in record.outcome.analysis.tasks
    assert servers.stop() == 0


def records_of(consumer: ResultClient) -> Iterator[results_pb2.ResultRecord]:
    """All records, as they come."""
    return (one.record for one in consumer.responses(after=0) if one.HasField("record"))
