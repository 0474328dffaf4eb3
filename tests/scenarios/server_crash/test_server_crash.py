"""kill -9 of the server at random moments, under load: nothing lost, nothing doubled, order kept.

FEATHERWIRE_CRASH_ROUNDS says how often it is killed; ten times when it does not.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from cloud_server.consumers import ResultClient
from edge_client.encoder import EdgeEncoder
from shared.bitstream import Bitstream
from shared.bundle import Bundle
from shared.errors import FeatherwireError
from shared.proto.featherwire.v1 import results_pb2
from tests.support import postgres
from tests.wire.conftest import server_process
from tests.wire.raw_client import RawClient

from .device import Device

ROUNDS = int(os.environ.get("FEATHERWIRE_CRASH_ROUNDS", "10"))


@pytest.fixture
def bitstream(encoder: EdgeEncoder, image: object) -> Bitstream:
    return encoder.encode(image)  # type: ignore[arg-type]


@pytest.fixture(params=["sqlite", "postgresql"])
def variables(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The environment of every server of a test: one log for all of them."""
    if request.param == "sqlite":
        return {"FEATHERWIRE_DATA": str(tmp_path / "data")}
    cluster: postgres.Cluster = request.getfixturevalue("postgres_cluster")
    return {"FEATHERWIRE_DATABASE": cluster.database()}


class Servers:
    """One server after the other, on the same log; ``address`` is the present one's."""

    def __init__(self, bundle: Bundle, variables: dict[str, str], folder: Path) -> None:
        self._bundle = bundle
        self._variables = variables
        self._folder = folder
        self._stack = ExitStack()
        self._starts = 0
        self.address = "127.0.0.1:1"

    def start(self, *arguments: str, code: str | None = None) -> None:
        self._starts += 1
        self._process, ready = self._stack.enter_context(
            server_process(
                "--bundle", self._bundle.origin, "--bundles", "none", "--tasks", "none", *arguments,
                log=self._folder / f"log-{self._starts}", environment=self._variables,
                **({} if code is None else {"code": code}),
            )
        )  # fmt: skip
        self.address = ready["listening"]

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait(10)
        self._stack.close()

    def stop(self) -> int:
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(60)
        self._stack.close()
        return code


@pytest.fixture
def servers(tiny_bundle: Bundle, variables: dict[str, str], tmp_path: Path) -> Iterator[Servers]:
    servers = Servers(tiny_bundle, variables, tmp_path)
    yield servers
    servers._stack.close()


class Watcher(threading.Thread):
    """A consumer that follows from the beginning; ``seen`` are (cursor, device, sequence)."""

    def __init__(self, servers: Servers) -> None:
        super().__init__(daemon=True)
        self._servers = servers
        self.seen: list[tuple[int, str, int]] = []
        self.stop = threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            after = self.seen[-1][0] if self.seen else 0
            with suppress(FeatherwireError), ResultClient(self._servers.address) as client:
                for response in client.watch(after=after):
                    if response.HasField("record"):
                        one = response.record
                        self.seen.append((one.cursor, one.device, one.sequence))
            time.sleep(0.02)


@pytest.mark.timeout(120 + 30 * ROUNDS)
def test_no_frame_is_lost_or_doubled_however_often_the_server_is_killed(
    servers: Servers, bitstream: Bitstream, tmp_path: Path
) -> None:
    rng = random.Random("crash")
    servers.start()
    devices = [Device(name, lambda: servers.address, bitstream) for name in ("left", "right")]
    watcher = Watcher(servers)
    for thread in (*devices, watcher):
        thread.start()
    for _ in range(ROUNDS):
        time.sleep(rng.uniform(0.02, 1.5))
        servers.kill()
        servers.start()
    for device in devices:
        device.finish(60)

    with ResultClient(servers.address) as client:
        records = list(client.list())
        wait_until(lambda: len(watcher.seen) >= len(records))
    assert [one.cursor for one in records] == list(range(1, len(records) + 1))
    assert watcher.seen == [(one.cursor, one.device, one.sequence) for one in records]
    for device in devices:
        own = [one for one in records if one.device == device.device]
        print(
            f"{device.device}: {device.sent} frames, {device.connections} connections, "
            f"{device.duplicates} sent again"
        )
        assert device.complaints == []
        assert device.connections > ROUNDS // 4
        assert device.duplicates > 0
        assert device.sent > 3 * ROUNDS
        # Each frame that was acknowledged has one result, and there are no others.
        assert device.acked == set(range(1, device.sent + 1))
        assert sorted(one.sequence for one in own) == sorted(device.acked)
        # The device has been told the same, in the same order.
        assert [one.result_id for one in own] == list(range(1, device.sent + 1))
        assert [device.results[one.result_id].sequence for one in own] == [
            one.sequence for one in own
        ]
        assert all(one.outcome.HasField("analysis") for one in own)
    watcher.stop.set()
    # Some were killed with frames in hand, or the test shows less than it says.
    assert any('"recovering"' in log.read_text() for log in tmp_path.glob("log-*"))
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
        assert len(list(consumer.list())) == 8
        assert all("detection" in one.outcome.analysis.tasks for one in consumer.list())
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
    return (one.record for one in consumer.watch(after=0) if one.HasField("record"))


def wait_until(condition: Callable[[], bool], timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
