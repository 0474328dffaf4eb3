"""kill -9 of server, worker, edge at random moments: nothing lost, nothing doubled, order kept.

``tests/support/crashes.py`` says how often; FEATHERWIRE_CRASH_SEED, when and what.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from math import isinf
from pathlib import Path
from typing import Any

import pytest

from cloud_server.consumers import ResultClient
from codec.base import open_cloud, small_bundle
from shared.bundle import Bundle
from shared.proto.featherwire.v1.results_pb2 import ResultRecord
from tests.support.crashes import ROUNDS, SECONDS, TIMEOUT_S, Servers, Watcher, rounds, wait_until
from tests.support.crashing_edge import KEPT, width

ROOT = Path(__file__).resolve().parents[3]
EDGE = ROOT / "tests" / "support" / "crashing_edge.py"
PATIENCE_S = 120.0
MOST = 100
"""Frames that wait on the edge: a machine may take minutes to start a server, and as long as that
no frame has a result. What came in all that time would have to be worked off in the end."""
SERVER = """
import functools
import cloud_server.serve.service as service
from cloud_server.cli import main
from tests.support.{} import {} as open_task

service.open_server = functools.partial(service.open_server, more_tasks={{"record": open_task}})
main()
"""

KINDS = ("server", "worker", "edge")
"""Each is killed once in three rounds, in any order."""


class Edge:
    """One edge process after the other, on the same spool."""

    def __init__(self, address: str, bundle: Bundle, folder: Path, **variables: str) -> None:
        """variables: of its environment."""
        self._variables = variables
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
            "MOST": str(MOST), **self._variables,
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


class Chaos:
    """Server, workers and edge, of which one after the other is killed."""

    def __init__(
        self, servers: Servers, bundle: Bundle, folder: Path, code: str, **variables: str
    ) -> None:
        seed = os.environ.get("FEATHERWIRE_CRASH_SEED", "everything")
        print(f"FEATHERWIRE_CRASH_SEED={seed}")
        self._rng = random.Random(f"{seed} {bundle.manifest.name}")
        self._servers, self._code = servers, code
        options = ("--workers", "2", "--tasks", "none")
        servers.start(*options, code=code)
        self.address = servers.address
        self._options = (*options, "--listen", self.address)
        self.edge = Edge(self.address, bundle, folder, **variables)
        self.watcher = Watcher(servers)
        self.watcher.start()
        self.killed: Counter[str] = Counter()

    def run(self) -> None:
        """All rounds, and what the edge has to say after them."""
        rng = self._rng
        try:
            order = [what for _ in range(ROUNDS) for what in rng.sample(KINDS, len(KINDS))]
            for number in rounds():
                if number % 3:  # else nobody may be there yet
                    self.edge.wait_for_results(1)
                time.sleep(rng.uniform(0.02, 1.0))
                self._kill(order[number])
            self.edge.wait_for_results(30)
            self.edge.finish()
        finally:
            self.edge.close()

    def _kill(self, what: str) -> None:
        self.killed[what] += 1
        match what:
            case "server":
                self._servers.kill()
                self._servers.start(*self._options, code=self._code)
            case "worker":
                self._servers.kill_worker(self._rng, ready=False)
            case "edge":
                self.edge.kill()
                self.edge.start()

    def check(self, task: str) -> tuple[list[dict[str, Any]], list[ResultRecord]]:
        """Nothing was lost or doubled; returns what the edge has, and what is in the log."""
        with ResultClient(self.address) as client:
            records = list(client.records())
            wait_until(lambda: len(self.watcher.seen) >= len(records))
        self.watcher.stop.set()
        lines = [json.loads(line) for line in self.edge.results.read_text().splitlines()]
        times = Counter(line["sequence"] for line in lines)
        frames = max(times)
        print(f"{frames} frames, killed {dict(self.killed)}, {len(lines) - frames} results again")
        # The log has each frame once, whole, and those who follow were told so in its order.
        assert sorted(one.sequence for one in records) == list(range(1, frames + 1))
        assert [one.cursor for one in records] == [one.result_id for one in records]
        assert [one.cursor for one in records] == list(range(1, frames + 1))
        assert self.watcher.seen == [(one.cursor, one.device, one.sequence) for one in records]
        assert all(task in one.outcome.analysis.tasks for one in records)
        # So has the edge. A kill between a result and the note that it was handed over brings that
        # one again, to the next process; never two to one.
        assert sorted(times) == list(range(1, frames + 1))
        assert {line["error"] for line in lines} == {None}
        assert len(lines) - frames <= self.killed["edge"]
        assert max(Counter((line["pid"], line["sequence"]) for line in lines).values()) == 1
        return lines, records


GROUPS_OF = [("null", "sqlite"), ("lattice-palette nested", "postgresql")]
if isinf(SECONDS):  # somebody asks for so many rounds: of all pairs
    GROUPS_OF += [("null", "postgresql"), ("lattice-palette nested", "sqlite")]


@pytest.mark.timeout(TIMEOUT_S)
def test_no_frame_is_lost_or_doubled_whatever_is_killed(
    servers: Servers, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    chaos = Chaos(servers, tiny_bundle, tmp_path, SERVER.format("fragile", "open_fragile"))
    chaos.run()
    lines, _ = chaos.check("record")
    assert all(line["width"] == width(line["sequence"]) for line in lines)
    assert servers.stop() == 0


@pytest.mark.parametrize(("made_by", "variables"), GROUPS_OF, indirect=["variables"])
@pytest.mark.timeout(TIMEOUT_S)
def test_no_frame_of_a_group_of_pictures_is_decoded_with_another_than_its_own(
    made_by: str, variables: dict[str, str], tmp_path: Path
) -> None:
    """The edge notes what it has coded; what the server has, and what its workers saw, is that."""
    name, _, kind = made_by.partition(" ")
    bundle = small_bundle(name, tmp_path / "bundle", kind)
    codec, task = open_cloud(bundle), "record" if bundle.manifest.pictures else "detection"
    servers, values = Servers(bundle, variables, tmp_path), tmp_path / "values"
    try:
        chaos = Chaos(
            servers, bundle, tmp_path, SERVER.format("recorder", "open_reader"),
            RESTLESS="1", TASK=task, VALUES=str(values),
        )  # fmt: skip
        chaos.run()
        lines, records = chaos.check(task)
        notes = [json.loads(line) for line in values.read_text().splitlines()]
        # What was not queued, because of a kill, was made again.
        coded = {one["sequence"]: one for one in notes}
        predicted = sum(one["predicted"] for one in coded.values())
        different = len({one["checksum"] for one in coded.values()})
        print(f"{predicted} of {len(coded)} frames predicted, {different} different ones")
        assert predicted > len(coded) / 2
        assert different > len(coded) / 2
        with ResultClient(chaos.address) as client:
            for one in records:
                alone, _ = client.frame((one.device, one.session, one.sequence))
                assert alone.reference is None
                values_here = codec.decode(alone).checksum().hex()
                assert values_here == coded[one.sequence]["checksum"], one.sequence
        if task == "record":
            assert [line["shown"] for line in lines] == [line["sequence"] for line in lines]
        assert servers.stop() == 0
    finally:
        servers.close()
