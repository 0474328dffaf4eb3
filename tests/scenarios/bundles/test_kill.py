"""A device that is killed while it changes over comes back, and changes over in the end."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from cloud_server.fleet.client import FleetClient
from shared.bundle import Bundle
from tests.support.fleet import outcome, until, use
from tests.support.proxy import Proxy
from tests.support.recorder import Recorder
from tests.support.servers import ServerThread

ROOT = Path(__file__).resolve().parents[3]
EDGE = ROOT / "tests" / "support" / "bundle_edge.py"
KILLS = 6


def test_kills_while_it_changes_over_lose_nothing(
    start_server: Callable[..., ServerThread], tiny_bundle: Bundle, other: Bundle, tmp_path: Path
) -> None:
    recorder = Recorder()
    server = start_server({"record": lambda: recorder}, bundles=(other.origin,))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    stop, rng = tmp_path / "stop", random.Random(11)
    parts: list[int] = []
    with Proxy(server.address) as proxy, FleetClient(server.address) as operator:
        proxy.downstream = 4e6  # the bundle takes about a second
        command = [
            sys.executable, str(EDGE), proxy.address, tiny_bundle.origin, str(tmp_path), str(stop),
        ]  # fmt: skip
        for kill in range(KILLS + 1):
            process = subprocess.Popen(
                command, env=environment, stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n"
            if kill == 0:
                until(lambda: [one for one in operator.devices() if one.online])
                use(operator, other.id)
            if kill == KILLS:
                until(lambda: outcome(operator) == "done", 60)
                time.sleep(0.3)
                stop.touch()
                assert process.wait(60) == 0
                break
            time.sleep(rng.uniform(0.05, 0.6))
            process.send_signal(signal.SIGKILL)
            process.wait(10)
            parts += [path.stat().st_size for path in (tmp_path / "cache").glob("*.part")]
        assert outcome(operator) == "done"
    lines = [json.loads(line) for line in (tmp_path / "results").read_text().splitlines()]
    assert {line["error"] for line in lines} == {None}
    last = max(line["sequence"] for line in lines)
    assert {line["sequence"] for line in lines} == set(range(1, last + 1)), "each has its result"
    widths = [32 + number % 200 for number in range(1, last + 1)]
    assert sorted(set(recorder.widths)) == sorted(set(widths))
    # What the server analysed besides are photos on which the bundle was tried.
    assert last < len(recorder.widths) <= last + KILLS + 1
    assert {line["bundle"] for line in lines} == {
        tiny_bundle.short_id.hex(),
        other.short_id.hex(),
    }
    assert max(lines, key=lambda line: line["sequence"])["bundle"] == other.short_id.hex()
    assert parts == sorted(parts), "what had come was not fetched again"
    assert parts, "it was never killed while it fetched"
