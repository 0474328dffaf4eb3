"""kill -9 of server, worker, edge at random moments: nothing lost, nothing doubled, order kept."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from cloud_server.consumers import ResultClient
from shared.bundle import Bundle
from tests.support.crashes import ROUNDS, TIMEOUT_S, Servers, Watcher, rounds, wait_until
from tests.support.crashing_edge import KEPT, width

ROOT = Path(__file__).resolve().parents[3]
EDGE = ROOT / "tests" / "support" / "crashing_edge.py"
PATIENCE_S = 60.0
SERVER = """
import functools
import cloud_server.serve.service as service
from cloud_server.cli import main
from tests.support.fragile import open_fragile

service.open_server = functools.partial(service.open_server, more_tasks={"record": open_fragile})
main()
"""

KINDS = ("server", "worker", "edge")
"""Each is killed once in three rounds, in any order."""


class Edge:
    """One edge process after the other, on the same spool."""

    def __init__(self, address: str, bundle: Bundle, folder: Path) -> None:
        self.results = folder / "results"
        self._stop = folder / "stop"
        self._log = folder / "edge-log"
        self._command = [
            sys.executable, str(EDGE), address, bundle.origin, str(folder / "spool"),
            str(self.results), "1000000000", str(self._stop),
        ]  # fmt: skip
        self.start()

    def start(self) -> None:
        environment = {
            **os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PAUSE_S": "0.05",
        }  # fmt: skip
        with self._log.open("a") as log:
            self._process = subprocess.Popen(self._command, env=environment, stdout=log, stderr=log)

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        code = self._process.wait(10)
        assert code in {-signal.SIGKILL, KEPT}, self._log.read_text()[-3000:]

    def wait_for_results(self, more: int) -> None:
        """Until it has so many results more than now."""
        before = self._answered()

        def came() -> bool:
            if self._process.poll() == KEPT:  # it gave up on a server that was long in coming
                self.start()
            return self._answered() >= before + more

        wait_until(came)

    def _answered(self) -> int:
        return len(self.results.read_text().splitlines()) if self.results.exists() else 0

    def finish(self) -> None:
        """Send what is spooled, and nothing new; and wait until all is answered."""
        self._stop.touch()
        answered, until = 0, 0.0
        while (code := self._process.poll()) in {None, KEPT}:
            if code == KEPT:  # it gave up on a server that was long in coming
                self.start()
            if (size := self.results.stat().st_size) > answered:
                answered, until = size, time.monotonic() + PATIENCE_S
            assert time.monotonic() < until, "results no longer come"
            time.sleep(0.1)
        assert self._process.returncode == 0, self._log.read_text()[-3000:]

    def close(self) -> None:
        self._process.kill()
        self._process.wait(10)


@pytest.mark.timeout(TIMEOUT_S)
def test_no_frame_is_lost_or_doubled_whatever_is_killed(
    servers: Servers, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    rng = random.Random("everything")
    options = ("--workers", "2", "--tasks", "none")
    servers.start(*options, code=SERVER)
    address = servers.address
    options += ("--listen", address)
    edge = Edge(address, tiny_bundle, tmp_path)
    watcher = Watcher(servers)
    watcher.start()
    killed: Counter[str] = Counter()
    try:
        order = [what for _ in range(ROUNDS) for what in rng.sample(KINDS, len(KINDS))]
        for number in rounds():
            if number % 3:  # else nobody may be there yet
                edge.wait_for_results(1)
            time.sleep(rng.uniform(0.02, 1.0))
            what = order[number]
            killed[what] += 1
            match what:
                case "server":
                    servers.kill()
                    servers.start(*options, code=SERVER)
                case "worker":
                    servers.kill_worker(rng, ready=False)
                case "edge":
                    edge.kill()
                    edge.start()
        edge.wait_for_results(30)
        edge.finish()
    finally:
        edge.close()

    with ResultClient(address) as client:
        records = list(client.records())
        wait_until(lambda: len(watcher.seen) >= len(records))
    watcher.stop.set()
    lines = [json.loads(line) for line in edge.results.read_text().splitlines()]
    times = Counter(line["sequence"] for line in lines)
    frames = max(times)
    print(f"{frames} frames, killed {dict(killed)}, {len(lines) - len(times)} results again")
    # The log has each frame once, whole, and those who follow were told so in its order.
    assert sorted(one.sequence for one in records) == list(range(1, frames + 1))
    assert [one.cursor for one in records] == [one.result_id for one in records]
    assert [one.cursor for one in records] == list(range(1, frames + 1))
    assert watcher.seen == [(one.cursor, one.device, one.sequence) for one in records]
    assert all("record" in one.outcome.analysis.tasks for one in records)
    # So has the edge. A kill between a result and the note that it was handed over brings that one
    # again, to the next process; never two to one.
    assert sorted(times) == list(range(1, frames + 1))
    assert {line["error"] for line in lines} == {None}
    assert all(line["width"] == width(line["sequence"]) for line in lines)
    assert len(lines) - frames <= killed["edge"]
    assert max(Counter((line["pid"], line["sequence"]) for line in lines).values()) == 1
    assert servers.stop() == 0
